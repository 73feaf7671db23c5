"""A lake that is not where it was: nothing is written past what it lacks, and all of it comes again from Kafka."""

import shutil
import time
from pathlib import Path

from connectors.topics import TASKS
from one_lake.tables import is_lake
from tests.brokers import Broker
from tests.flows.test_refine import Running, cell_on, ids, lanes_at_rest, send, tasks


def answered_by(run: Running, count: int) -> bool:
    """Tell whether the lake has so many records."""
    return is_lake(run.lake) and len(run.answers()) >= count


def wait_for_snapshots(run: Running, broker: Broker) -> None:
    """Until all 20 are in the lake, and the cell would go on behind them."""
    run.wait_for(lambda: answered_by(run, 20) and lanes_at_rest(broker, run.lake), 120, "a cut is not committed")
    time.sleep(4.0)


def test_a_lake_that_is_not_mounted_is_waited_for(own_broker: Broker, tmp_path: Path) -> None:
    """What was written to an empty one in its place would be lacking in it for ever."""
    before, after = tasks(30)[:20], tasks(30)[20:]
    with cell_on(own_broker, tmp_path) as run:
        send(own_broker, TASKS, before)
        run.cell.start("w1")
        run.wait_for_ends(ids(before))
        wait_for_snapshots(run, own_broker)  # until then the rows would come again by themselves
        assert set(run.cell.terminate()) == {0}, run.cell.tail()
        run.lake.rename(tmp_path / "unmounted")
        send(own_broker, TASKS, after)
        run.cell.start("w1")
        run.wait_for(lambda: "is that the lake, and is it mounted?" in run.cell.tail(), 120, "nobody says so")
        time.sleep(2.0)
        assert run.decisions() == 20
        run.cell.kill()
        shutil.rmtree(run.lake)
        (tmp_path / "unmounted").rename(run.lake)
        run.cell.start("w1")
        run.wait_for_ends(ids(after))
        run.stop_and_audit()
        assert run.answers().keys() == ids(before) | ids(after)


def test_a_lake_that_is_lost_is_filled_again_from_kafka(own_broker: Broker, tmp_path: Path) -> None:
    """With what the message says to do; no model is asked again."""
    sent = tasks(20)
    with cell_on(own_broker, tmp_path) as run:
        send(own_broker, TASKS, sent)
        run.cell.start("w1")
        run.wait_for_ends(ids(sent))
        wait_for_snapshots(run, own_broker)
        assert set(run.cell.terminate()) == {0}, run.cell.tail()
        calls, answers = (tmp_path / "calls.txt").read_bytes(), run.answers()
        shutil.rmtree(run.lake)
        shutil.rmtree(run.cell.state / "recovery")
        run.cell.start("w1", AUREON_GROUP="another")
        run.wait_for(lambda: answered_by(run, 20), 120, "the lake is not filled")
        run.stop_and_audit()
        assert run.answers() == answers
        assert (tmp_path / "calls.txt").read_bytes() == calls
