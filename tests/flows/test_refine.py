"""The cell as a process, from Kafka to the lake: bad input, a broker that goes away, stops, a full disk."""

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer, TopicPartition
from msgspec import Struct

import one_lake
from connectors.blobs import BlobStore
from connectors.checked_producer import CheckedProducer
from connectors.cut_commits import CutCommits
from connectors.kafka import client_config, read_to_end
from connectors.topics import DEAD_LETTERS, RESULTS, TASKS, TASKS_HIGH, TASKS_NEXT, ensure_topics
from flows.figures import KafkaLook
from schemas.decision import DeadLetter, DecisionKind, read_decision
from schemas.ids import home_lane
from tests.brokers import Broker, empty
from tests.chaos.audit import LogFollower, Name, audit
from tests.chaos.cells import CrashingCell, wait_until
from tests.flows.refine_parts import ANSWER, BRANCHING, CALLS, DISK_IS_FULL, LONG_ANSWER, POISON

LANES = 2
PARTS = "tests.flows.refine_parts"
ENDED = (DecisionKind.CONVERGED, DecisionKind.DEAD, DecisionKind.CANCELLED)
Task = dict[str, Any]
Id = tuple[str, str]
"""(topic, logical id)."""


class Running(Struct):
    """A cell with who follows its log."""

    cell: CrashingCell
    follower: LogFollower
    lake: Path

    def wait_for(self, condition: Callable[[], bool], limit_s: float, what: str) -> None:
        """Wait until something is true; the cell has to be alive."""

        def looked() -> bool:
            self.cell.check_alive()
            return condition()

        wait_until(looked, limit_s, what, self.cell)

    def wait_for_calls(self, count: int, topic: str = "math") -> None:
        """Wait until so many calls are answered: while much is decided, it takes seconds to follow the log."""
        path, line = self.cell.home / "calls.txt", f"{topic}/task-".encode()
        self.wait_for(
            lambda: path.exists() and path.read_bytes().count(line) >= count, 120, f"{count} calls are not answered"
        )

    def ended(self) -> set[Id]:
        """What has converged or is dead by the log."""
        self.follower.poll()
        return {(d.topic, d.logical_id) for _, d in self.follower.winners.values() if d.kind in ENDED}

    def wait_for_ends(self, expected: Iterable[Id], limit_s: float = 120.0) -> None:
        """Look until tasks have ended."""
        awaited = set(expected)
        self.wait_for(lambda: awaited <= self.ended(), limit_s, f"{len(awaited)} tasks have not all ended")

    def decisions(self) -> int:
        """How many there are on the log."""
        self.follower.poll()
        return len(self.follower.winners)

    def stop_and_audit(self) -> None:
        """End the cell gracefully; then nothing may be wrong."""
        assert set(self.cell.terminate()) == {0}, self.cell.tail()
        self.follower.poll()
        found = audit(self.follower, self.lake)
        assert found.faults() == 0, f"{found}"

    def answers(self) -> dict[Id, str]:
        """The records of ONE."""
        with one_lake.connect(self.lake) as db:
            rows = db.execute("SELECT topic, logical_id, answer FROM one").fetchall()
        return {(topic, logical_id): answer for topic, logical_id, answer in rows}


@contextmanager
def cell_on(broker: Broker, home: Path, nodes: str = "quick_nodes", **settings: object) -> Iterator[Running]:
    """Prepare a cell, which the test starts; it is gone at the end."""
    home.mkdir(exist_ok=True)
    ensure_topics(client_config(broker.brokers), LANES)
    environment = {
        "AUREON_BROKERS": broker.brokers,
        "AUREON_NODES": f"{PARTS}:{nodes}",
        CALLS: str(home / "calls.txt"),
        DISK_IS_FULL: str(home / "disk-is-full"),
        **{f"AUREON_{name.upper()}": str(value) for name, value in settings.items()},
    }
    cell = CrashingCell(home, environment)
    follower = LogFollower(broker.brokers, LANES)
    try:
        yield Running(cell, follower, Path(environment.get("AUREON_LAKE", home / "lake")))
    finally:
        cell.kill()
        cell.log.close()
        follower.close()


def tasks(count: int, prompt: str = "question", **more: object) -> list[Task]:
    """Make tasks."""
    return [
        {"topic": "math", "logical_id": f"task-{i}", "payload": {"prompt": f"{i}: {prompt}"}, **more}
        for i in range(count)
    ]


def ids(sent: Iterable[Task]) -> set[Id]:
    """Name tasks."""
    return {(task["topic"], task["logical_id"]) for task in sent}


def send(broker: Broker, kafka_topic: str, sent: Iterable[Task]) -> None:
    """Send tasks to their home lanes."""
    send_bytes(broker, ((kafka_topic, home_lane(t["logical_id"], LANES), msgspec.json.encode(t)) for t in sent))


def send_bytes(broker: Broker, messages: Iterable[tuple[str, int, bytes]]) -> None:
    """Send messages, each to its Kafka topic and lane, in order."""
    producer = CheckedProducer(client_config(broker.brokers))
    for kafka_topic, lane, value in messages:
        producer.send(kafka_topic, lane, [value])
    producer.flush(60)
    producer.close()


class Bad(Struct):
    """A message that is to become a dead letter."""

    value: bytes
    says: str
    """Part of what its dead letter says: the field, where there is one."""
    reason: str = "bad_input"
    lane: int = 0


def bad_messages() -> list[Bad]:
    """Every kind of them."""

    def changed(**changes: object) -> bytes:
        return msgspec.json.encode({"topic": "math", "logical_id": "bad", "payload": {"prompt": "question"}, **changes})

    # One that claims to be a later round of a task that is there, with a seal of its own making.
    forged: dict[str, object] = {"cause": [0, 7, 0, "0" * 24], "origin": {"answer": "43"}}
    later = {"logical_id": "task-1", "task_id": "task-1:r1", "round_index": 1}
    conflict = {"logical_id": "task-3", "payload": {"prompt": "something else"}}
    return [
        Bad(b'{"topic": "math", "payload": {"pro', "not JSON"),
        Bad(b"", "not JSON"),
        Bad(b'{"topic": "m\xff\xfe", "payload": {"prompt": "question"}}', "not UTF-8"),
        Bad(b'{"topic": "math", "payload": {"prompt": "\xff\xfe"}}', "of a text - at `$.payload`"),
        Bad(b'{"payload": {"prompt": "question"}}', "`topic`"),
        Bad(b'{"topic": "math"}', "`payload`"),
        Bad(changed(topic=7), "`$.topic`"),
        Bad(changed(hurry=True), "`hurry`"),
        Bad(changed(payload={}), "`$.payload`"),
        Bad(changed(payload={"prompt": 7}), "`$.payload.prompt`"),
        Bad(changed(priority=-1), "`$.priority`"),
        Bad(changed(priority=1 << 40), "`$.priority`"),
        Bad(changed(payload={"prompt": "x" * 20_000_000}), "20,000,0"),
        Bad(changed(**later, **forged), "`$.cause`"),
        Bad(changed(logical_id="bad:r3"), "`$.logical_id`"),
        Bad(changed(logical_id="bad:branch-0"), "`$.logical_id`"),
        Bad(changed(round_index=2), "`$.round_index`"),
        Bad(changed(**conflict), "'task-3'", "id_conflict", home_lane("task-3", LANES)),
    ]


def test_bad_input_becomes_dead_letters_and_the_good_tasks_around_it_converge(
    own_broker: Broker, tmp_path: Path
) -> None:
    """Every dead letter names its message and the field, in the lake and on Kafka, and there is nothing else."""
    good = tasks(20)
    topics = ["a/b", "with spaces", "owl 🦉", "../../etc", "%2F", "math:r1"]
    good += [{**task, "topic": topic} for task, topic in zip(tasks(len(topics)), topics, strict=True)]
    misplaced = {"topic": "math", "logical_id": "far from home", "payload": {"prompt": "question"}}
    away = 1 - home_lane("far from home", LANES)
    bad = bad_messages()
    # among the good ones, behind the task whose id one of them repeats
    messages: list[tuple[str, int, bytes]] = []
    refused: dict[Name, Bad] = {}
    offsets: Counter[int] = Counter()
    for index in range(max(len(good), len(bad) + 4)):
        if index < len(good):
            lane = home_lane(good[index]["logical_id"], LANES)
            messages.append((TASKS, lane, msgspec.json.encode(good[index])))
            offsets[lane] += 1
        if 4 <= index < len(bad) + 4:
            one = bad[index - 4]
            lane = one.lane if one.reason == "id_conflict" else index % LANES
            messages.append((TASKS, lane, one.value))
            refused[lane, TASKS, offsets[lane]] = one
            offsets[lane] += 1
    messages.append((TASKS, away, msgspec.json.encode(misplaced)))
    with cell_on(own_broker, tmp_path) as run:
        send_bytes(own_broker, messages)
        run.cell.start("w1")
        expected = len(messages) + 1  # the misplaced one arrives twice
        run.wait_for(lambda: run.decisions() == expected, 120, "not all is decided")
        for name, one in refused.items():
            assert run.follower.messages.pop(name) == one.value
        run.stop_and_audit()
        assert run.answers() == dict.fromkeys(ids([*good, misplaced]), ANSWER)
        with one_lake.connect(run.lake) as db:
            dead = db.execute("SELECT lane, kafka_topic, message_offset, reason, detail FROM dead_letters").fetchall()
            assert db.execute("SELECT count(*) FROM rounds").fetchall() == [(expected,)]
    in_lake = {(lane, kafka_topic, offset): (reason, detail) for lane, kafka_topic, offset, reason, detail in dead}
    assert len(dead) == len(in_lake)
    config = client_config(own_broker.brokers)
    sent = [read_to_end(config, DEAD_LETTERS, lane) for lane in range(LANES)]
    letters = [msgspec.json.decode(message.value() or b"", type=DeadLetter) for message in chain(*sent)]
    assert len(letters) == len(refused)
    assert {(x.lane, x.kafka_topic, x.offset): (x.reason, x.detail) for x in letters} == in_lake
    assert in_lake.keys() == refused.keys()
    for (lane, kafka_topic, offset), one in refused.items():
        reason, detail = in_lake[lane, kafka_topic, offset]
        assert reason == one.reason, detail
        assert one.says in detail
        assert detail.startswith(f"{kafka_topic}[{lane}]@{offset}: ")


@pytest.mark.parametrize("away_s", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_a_cell_goes_on_when_its_broker_comes_back(own_broker: Broker, tmp_path: Path, away_s: float) -> None:
    """The broker stops in the middle and is away for a while: the process waits, and then does the rest."""
    sent = tasks(300)
    with cell_on(own_broker, tmp_path, "slow_nodes", in_flight=20) as run:
        send(own_broker, TASKS, sent)
        run.cell.start("w1")
        run.wait_for_calls(200)
        own_broker.stop()
        time.sleep(away_s)
        run.cell.check_alive()
        own_broker.start()
        assert not ids(sent) <= run.ended(), "it was done before the broker went away"
        run.wait_for_ends(ids(sent), 90)
        run.stop_and_audit()
        assert run.answers() == dict.fromkeys(ids(sent), ANSWER)


def test_a_graceful_stop_in_the_middle_repeats_no_call(own_broker: Broker, tmp_path: Path) -> None:
    """What was decided is in the lake when the process ends; the next one does the rest, and takes it for no crash."""
    sent = tasks(200)
    with cell_on(own_broker, tmp_path, "slow_nodes", in_flight=40) as run:
        send(own_broker, TASKS, sent)
        run.cell.start("w1")
        run.wait_for_calls(200)
        assert run.cell.terminate() == [0], run.cell.tail()
        assert not ids(sent) <= run.ended(), "it was done before the stop"
        decided = {(name[0], offset) for name, (offset, _) in run.follower.winners.items()}
        with one_lake.connect(run.lake) as db:
            assert set(db.execute("SELECT lane, decision_offset FROM rounds").fetchall()) == decided
        run.cell.start("w1")
        run.wait_for_ends(ids(sent))
        run.stop_and_audit()
    calls = Counter((tmp_path / "calls.txt").read_text().splitlines())
    assert len(calls) == len(sent) * 2 * 2, "two rounds of two nodes each"
    assert [call for call, count in calls.items() if count > 1] == []
    config = client_config(own_broker.brokers)
    log = chain(*(read_to_end(config, RESULTS, lane) for lane in range(LANES)))
    assert DecisionKind.STARTED not in {read_decision(message.value() or b"").kind for message in log}


def test_a_graceful_stop_begins_no_call_and_waits_for_none_that_waits(own_broker: Broker, tmp_path: Path) -> None:
    """Only what is being asked is paid for and waited for, however much is handed out, and all is there in the end."""
    sent = tasks(60)
    with cell_on(own_broker, tmp_path, "busy_nodes", drain_s=90) as run:
        send(own_broker, TASKS, sent)
        run.cell.start("w1")
        run.wait_for_calls(4)
        began, answered = time.monotonic(), len((tmp_path / "calls.txt").read_bytes().splitlines())
        assert run.cell.terminate() == [0], run.cell.tail()
        took = time.monotonic() - began
        after = len((tmp_path / "calls.txt").read_bytes().splitlines()) - answered
        # two nodes with a seat each, and what was answered before the cell heard of it
        assert after <= 8, f"{after} calls were answered after the stop, and not {2 * len(sent) - answered}"
        assert took < 60, "it waited for those that wait"
        run.cell.start("w1")
        run.wait_for_ends(ids(sent), 90)
        run.stop_and_audit()
    calls = Counter((tmp_path / "calls.txt").read_text().splitlines())
    assert (len(calls), max(calls.values())) == (2 * len(sent), 1)


@pytest.mark.slow
def test_urgent_tasks_overtake_the_backlog_and_do_not_starve_it(own_broker: Broker, tmp_path: Path) -> None:
    """They are decided while at most 5,000 of 100,000 low ones are; and those go on being decided meanwhile."""
    backlog = 100_000
    batches = [tasks(10, topic=f"urgent-{turn}", priority=1) for turn in range(3)]
    sent_at: list[float] = []
    with cell_on(own_broker, tmp_path) as run:
        send(own_broker, TASKS, tasks(backlog, priority=8))
        run.cell.start("w1")
        run.wait_for_calls(1)
        # Three times, and the second slowest counts: other programs may have the processor for a while.
        for turn, urgent in enumerate(batches):
            send(own_broker, TASKS_HIGH, urgent)
            sent_at.append(time.time())
            run.wait_for_calls(2 * len(urgent), f"urgent-{turn}")
        run.wait_for_ends(ids(chain(*batches)))
        decided = [d for _, d in run.follower.winners.values()]
        done_at = [max(d.decided_at for d in decided if d.topic == f"urgent-{turn}") for turn in range(3)]
        low = [d.decided_at for d in decided if d.topic == "math"]
        # in tasks, not seconds: it is the same on a machine of any speed
        passed = sorted(sum(s < at < d for at in low) for s, d in zip(sent_at, done_at, strict=True))
        assert passed[1] < 5_000, passed
        assert sum(at < done_at[-1] for at in low) < backlog, "nothing was left to overtake"
        assert any(sent_at[0] < at < done_at[0] for at in low)
        run.wait_for(lambda: run.decisions() > len(decided) or len(low) == backlog, 60, "the low ones starve")


@pytest.mark.apache
def test_tasks_that_came_by_a_transaction_leave_nothing_waiting(own_broker: Broker, tmp_path: Path) -> None:
    """It leaves offsets without a message, and one that was aborted messages that nobody is to read."""
    config = client_config(own_broker.brokers)
    with cell_on(own_broker, tmp_path) as run:
        run.cell.start("w1")
        producer = Producer({**config, "transactional.id": "a-user"})
        producer.init_transactions(30)
        for end, sent in ((producer.commit_transaction, tasks(20)), (producer.abort_transaction, tasks(5, topic="no"))):
            producer.begin_transaction()
            for task in sent:
                lane = home_lane(task["logical_id"], LANES)
                producer.produce(TASKS, msgspec.json.encode(task), partition=lane)
            end(30)
        run.wait_for_ends(ids(tasks(20)))
        look = KafkaLook(config, "aureon")

        def waiting() -> int | None:
            figures = look.figures()
            return figures.waiting if figures is not None else None

        run.wait_for(lambda: waiting() == 0, 120, "what is no message is waited for")
        assert run.ended() == ids(tasks(20))
        run.stop_and_audit()


@contextmanager
def disk_for_the_lake(home: Path) -> Iterator[tuple[Path, str, Callable[[], None], Callable[[], None]]]:
    """A small disk, how to fill it and how to free it: a real one for root, else a wrapper round the lake's writer."""
    disk = home / "disk"
    disk.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    # root of a container may not mount either
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True, timeout=60).returncode != 0:
        mark = home / "disk-is-full"
        yield disk, "nodes_beside_a_full_disk", mark.touch, mark.unlink
        return
    ballast = disk / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                return

    try:
        yield disk, "slow_nodes", fill, ballast.unlink
    finally:
        subprocess.run(["/bin/umount", str(disk)], check=True, timeout=60)


def test_a_full_disk_stops_the_cell_and_loses_nothing(own_broker: Broker, tmp_path: Path) -> None:
    """The error names the lake and the cause; with room again, the next start does the rest."""
    sent = tasks(200)
    with (
        disk_for_the_lake(tmp_path) as (disk, nodes, fill, free),
        cell_on(own_broker, tmp_path, nodes, in_flight=20, lake=disk / "lake") as run,
    ):
        send(own_broker, TASKS, sent)
        run.cell.start("w1")
        run.wait_for((disk / "lake" / "rounds").exists, 120, "there is no lake")
        fill()
        assert run.cell.processes[0].wait(60) == 1, run.cell.tail()
        # the calls that were under way say at length that they have nowhere to go
        told = (run.cell.home / "cell.log").read_text(errors="replace")
        assert f"lake {disk / 'lake'}: No space left on device; nothing is lost" in told
        free()
        run.cell.start("w1")
        run.wait_for_ends(ids(sent))
        run.stop_and_audit()
        assert run.answers() == dict.fromkeys(ids(sent), ANSWER)


def test_what_belongs_to_another_cluster_is_refused(own_broker: Broker, tmp_path: Path) -> None:
    """A wrong key, a state folder and a lake of another broker: each start ends soon, and says what to set."""
    with cell_on(own_broker, tmp_path / "first") as run:
        run.cell.start("w1")
        send(own_broker, TASKS, tasks(1))
        run.wait_for_ends(ids(tasks(1)))
        run.stop_and_audit()
    with cell_on(own_broker, tmp_path / "stranger") as run:
        run.cell.start("w1")
        said = words_of_refusal(run)
        assert "began with the key " in said
        assert "give it the cluster's own key" in said
    empty(own_broker)  # another broker, as far as the cell can tell
    with cell_on(own_broker, tmp_path / "first") as run:
        run.cell.start("w1")
        said = words_of_refusal(run)
        assert f"the state folder {run.cell.state} belongs to the cluster " in said
        assert "set AUREON_BROKERS to the broker it was made with, or AUREON_STATE to another folder" in said
        shutil.rmtree(run.cell.state)
        run.cell.start("w1")
        said = words_of_refusal(run)
        assert f"the lake {run.lake} belongs to the cluster " in said
        assert "set AUREON_BROKERS to the broker it was made with, or AUREON_LAKE to another folder" in said


def words_of_refusal(run: Running) -> str:
    """Wait for the end of a cell that should not start."""
    assert run.cell.processes[0].wait(120) == 1, run.cell.tail()
    return run.cell.tail()


def test_a_policy_and_a_verifier_of_the_users_own_decide(own_broker: Broker, tmp_path: Path) -> None:
    """Both are named by import path."""
    sent = tasks(10)
    checked = [{**t, "topic": "checked", "payload": {**t["payload"], "verifier": "ends_in_seven"}} for t in tasks(10)]
    own = {"policy": f"{PARTS}:SecondRoundPolicy", "verifiers": f"{PARTS}:ends_in_seven"}
    with cell_on(own_broker, tmp_path, "dissenting_nodes", **own) as run:
        send(own_broker, TASKS, sent + checked)
        run.cell.start("w1")
        run.wait_for_ends(ids(sent + checked))
        run.stop_and_audit()
        # The majority is right, unless somebody knows better.
        assert run.answers() == {**dict.fromkeys(ids(sent), ANSWER), **dict.fromkeys(ids(checked), "17")}
        with one_lake.connect(run.lake) as db:
            judged = "SELECT topic, policy, reason, round_index, evidence FROM one GROUP BY ALL ORDER BY topic"
            assert db.execute(judged).fetchall() == [
                ("checked", "second round", "round 1 of 17", 1, "verifier"),
                ("math", "second round", "round 1 of 42", 1, "cross-model"),
            ]


def test_a_task_that_ends_its_process_is_dead_in_the_end_and_the_innocent_converge(
    own_broker: Broker, tmp_path: Path
) -> None:
    """Started again and again, as an orchestrator would, the cell finds out which one it is."""
    sent = tasks(40)
    poison = {"topic": "math", "logical_id": "poison", "payload": {"prompt": POISON}}
    with cell_on(own_broker, tmp_path) as run:
        send(own_broker, TASKS, [*sent[:20], poison, *sent[20:]])
        everything = ids([*sent, poison])
        starts = 0
        while not everything <= run.ended():
            starts += 1
            assert starts <= 8, run.cell.tail()
            run.cell.start("w1")
            wait_until(
                lambda: ended_or_gone(run, everything), 60, f"start {starts}: it neither ends nor goes on", run.cell
            )
        run.stop_and_audit()
        assert starts > 1
        assert run.answers() == dict.fromkeys(ids(sent), ANSWER)
        with one_lake.connect(run.lake) as db:
            dead = db.execute("SELECT topic, logical_id, reason FROM dead_letters").fetchall()
        assert dead == [("math", "poison", "poison")]


@pytest.mark.parametrize("shape", ["w1", "w2", "two"])
def test_what_a_step_raises_is_told(own_broker: Broker, tmp_path: Path, shape: str) -> None:
    """By every shape of a cell: between processes Bytewax itself loses it."""
    with cell_on(own_broker, tmp_path, policy="no_such_module:policy") as run:
        send(own_broker, TASKS, tasks(10))
        run.cell.start(shape)
        wait_until(lambda: all(p.poll() is not None for p in run.cell.processes), 120, "the cell goes on", run.cell)
        assert "AUREON_POLICY='no_such_module:policy': No module named 'no_such_module'" in run.cell.tail()


def ended_or_gone(run: Running, expected: set[Id]) -> bool:
    """Tell whether tasks have ended, or the process has."""
    gone = run.cell.processes[0].poll() is not None
    return gone or expected <= run.ended()


def lanes_at_rest(broker: Broker, lake: Path) -> bool:
    """Tell whether the cut of each lane was committed behind its last decision."""
    with one_lake.connect(lake) as db:
        last = db.execute("SELECT lane, max(decision_offset) FROM rounds GROUP BY lane").fetchall()
    commits = CutCommits(client_config(broker.brokers), "aureon")
    found = commits.committed_cut([TopicPartition(RESULTS, lane) for lane, _ in last])
    commits.close()
    kept = {place.partition: offset for place, (offset, _) in found.items()}
    return all(kept.get(lane, 0) > offset for lane, offset in last)


@pytest.mark.parametrize("shape", ["w1", "w2", "two"])
def test_one_worker_two_or_two_processes_do_the_same_work(own_broker: Broker, tmp_path: Path, shape: str) -> None:
    """Each task and each branch has its one record, whoever worked on it."""
    sent = tasks(200)
    parents = [{**task, "topic": "parents"} for task in tasks(50, BRANCHING)]
    branches = {("follow-up", f"{parent['logical_id']}:branch-{i}") for parent in parents for i in range(2)}
    with cell_on(own_broker, tmp_path, "two_round_nodes") as run:
        send(own_broker, TASKS, sent + parents)
        run.cell.start(shape)
        everything = ids(sent + parents) | branches
        run.wait_for_ends(everything)
        # also where the other process writes to the lake: else its log would be read from the beginning for ever
        run.wait_for(lambda: lanes_at_rest(own_broker, run.lake), 120, "a cut is not committed")
        run.stop_and_audit()
        assert run.answers() == dict.fromkeys(everything, ANSWER)
        with one_lake.connect(run.lake) as db:
            assert db.execute("SELECT kind, count(*) FROM rounds GROUP BY kind ORDER BY kind").fetchall() == [
                ("converged", len(everything)),
                ("next_round", len(everything)),
            ]


def test_a_large_payload_is_in_the_store_and_not_in_kafka(own_broker: Broker, tmp_path: Path) -> None:
    """300 KB of it through three rounds, inline and by reference, and an answer of 80 KB: the lake has them whole."""
    payload = {"prompt": "x" * 300_000, "mine": [1, None]}
    store = BlobStore(str(tmp_path / "blobs"))
    store.create()
    reference = msgspec.to_builtins(store.put(msgspec.json.encode(payload)))
    lost = {"$blob": "sha256-" + "0" * 64, "bytes": 5}
    away = [{**task, "payload": reference} for task in tasks(5)]
    inline = [{**task, "logical_id": f"inline-{i}", "payload": payload} for i, task in enumerate(tasks(5))]
    with cell_on(own_broker, tmp_path, "long_winded_nodes") as run:
        send(own_broker, TASKS, [*away, *inline, {"topic": "math", "logical_id": "lost", "payload": lost}])
        run.cell.start("w1")
        run.wait_for_ends({*ids([*away, *inline]), ("math", "lost")})
        run.stop_and_audit()
        assert run.answers() == dict.fromkeys(ids([*away, *inline]), LONG_ANSWER)
        with one_lake.connect(run.lake) as db:
            rows = db.execute("SELECT payload, round_index FROM one").fetchall()
            stored = db.execute("SELECT max(length(payload)), max(length(answer)) FROM stored.records").fetchall()
            dead = db.execute("SELECT logical_id, payload, detail FROM dead_letters").fetchall()
    assert [(msgspec.json.decode(text), round_index) for text, round_index in rows] == [(payload, 2)] * 10
    assert stored[0][0] < 200 > stored[0][1]
    (letter,) = dead
    assert letter[0] == "lost"
    assert msgspec.json.decode(letter[1]) == lost
    assert f"blob {lost['$blob']} is not in the blob store" in letter[2]
    config = client_config(own_broker.brokers)
    for kafka_topic in (RESULTS, TASKS_NEXT, DEAD_LETTERS):
        messages = chain(*(read_to_end(config, kafka_topic, lane) for lane in range(LANES)))
        sizes = [len(message.value() or b"") for message in messages]
        assert sizes
        assert max(sizes) < 3000, kafka_topic
