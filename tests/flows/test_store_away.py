"""A blob store that is away: the cell stops and says why, and goes on once it is back."""

from pathlib import Path

import msgspec

from connectors.blobs import BlobStore
from connectors.topics import TASKS
from tests.brokers import Broker
from tests.chaos.cells import wait_until
from tests.flows.refine_parts import ANSWER
from tests.flows.test_refine import Task, cell_on, ids, send, tasks


def referring(store: Path, count: int) -> list[Task]:
    """Tasks whose payloads are in the store, under one hash each."""
    blobs = BlobStore(str(store))
    blobs.create()
    payloads = [msgspec.json.encode({"prompt": f"{i}" + "x" * 100_000}) for i in range(count)]
    return [
        {**task, "payload": msgspec.to_builtins(blobs.put(payload))}
        for task, payload in zip(tasks(count), payloads, strict=True)
    ]


def test_a_store_that_goes_away_stops_a_cell_and_nothing_is_lost(own_broker: Broker, tmp_path: Path) -> None:
    """It is moved away under the running cell, and back before the next start."""
    store = tmp_path / "blobs"
    sent = referring(store, 20)
    with cell_on(own_broker, tmp_path) as run:
        first = [{"topic": "math", "logical_id": "first", "payload": {"prompt": "?"}}]
        send(own_broker, TASKS, first)
        run.cell.start("w1")
        run.wait_for_ends(ids(first))
        store.rename(tmp_path / "elsewhere")
        send(own_broker, TASKS, sent)
        wait_until(lambda: run.cell.processes[0].poll() is not None, 120, "the cell goes on", run.cell)
        assert run.cell.processes[0].poll() != 0
        assert "there is no blob store at" in run.cell.tail()
        assert run.ended() == ids(first)
        (tmp_path / "elsewhere").rename(store)
        run.cell.start("w1")
        run.wait_for_ends(ids(sent))
        run.stop_and_audit()
        assert run.answers() == dict.fromkeys(ids([*first, *sent]), ANSWER)


def test_a_cell_that_starts_beside_a_store_that_is_away_makes_no_dead_letters(
    own_broker: Broker, tmp_path: Path
) -> None:
    """The disk is not mounted after the machine started again: its mount point is there, and empty."""
    store = tmp_path / "blobs"
    sent = referring(store, 20)
    with cell_on(own_broker, tmp_path) as run:
        first = [{"topic": "math", "logical_id": "first", "payload": {"prompt": "?"}}]
        send(own_broker, TASKS, first)
        run.cell.start("w1")
        run.wait_for_ends(ids(first))
        run.stop_and_audit()
        store.rename(tmp_path / "elsewhere")
        store.mkdir()
        send(own_broker, TASKS, sent)
        run.cell.start("w1")
        wait_until(
            lambda: run.cell.processes[0].poll() is not None or run.ended() > ids(first),
            120,
            "nothing happens",
            run.cell,
        )
        kinds = {d.kind.value: d.reason for _, d in run.follower.winners.values() if d.logical_id != "first"}
        assert kinds == {}, run.cell.tail()
