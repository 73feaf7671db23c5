"""`aureon submit`: every good line reaches its home lane, every bad one is named."""

import contextlib
import io
import json
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.blobs import BlobStore
from connectors.kafka import client_config, read_to_end
from connectors.topics import TASKS, TASKS_HIGH, ensure_topics
from flows.commands.submit import BAD_LINES_SHOWN, read_lines, with_topic
from flows.sending import TaskSender
from schemas.blob import BlobReference, read_reference
from schemas.errors import BadRecordError
from schemas.ids import content_id, home_lane
from schemas.task import encode
from tests.aureon_command import AUREON, aureon, environment, until
from tests.brokers import Broker

LANES = 4
LIMIT = 100


def lines_of(data: bytes, limit: int = LIMIT) -> list[tuple[int, bytes | str]]:
    """The lines of a file, errors as text."""
    read = read_lines(io.BytesIO(data), limit)
    return [(number, str(line) if isinstance(line, BadRecordError) else line) for number, line in read]


def test_lines_have_their_numbers_and_blank_ones_are_left_out() -> None:
    """Whatever ends a line, and with or without a byte order mark."""
    assert lines_of(b"\xef\xbb\xbf{}\r\n\n  \n{ }\n[]") == [(1, b"{}"), (4, b"{ }"), (5, b"[]")]


def test_a_line_that_is_too_long_is_an_error_in_its_place() -> None:
    """And the next one is read as if nothing had been."""
    data = b"a" * LIMIT + b"\n" + b"b" * 5_000_000 + b"\n" + b"c\n" + b"d" * 300
    read = lines_of(data)
    assert [number for number, _ in read] == [1, 2, 3, 4]
    assert read[0][1] == b"a" * LIMIT
    assert str(read[1][1]).startswith("5,000,001 bytes; a task may have 100")
    assert read[2][1] == b"c"
    assert "AUREON_MAX_TASK_BYTES" in str(read[3][1])


@given(st.lists(st.binary(max_size=LIMIT).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b""))))
def test_any_lines_come_out_as_they_went_in(lines: list[bytes]) -> None:
    """But for the space around them."""
    read = lines_of(b"\n".join(lines).removeprefix(b"\xef\xbb\xbf"))
    stripped = [(n, line.strip()) for n, line in enumerate(lines, 1)]
    assert [entry for entry in read if entry[0] > 1] == [entry for entry in stripped if entry[1] and entry[0] > 1]


@pytest.mark.parametrize(
    "line, expected",
    [
        (b'{"payload": {}}', {"topic": "t", "payload": {}}),
        (b'{"topic": "mine"}', {"topic": "mine"}),
        (b'{"topic": ""}', {"topic": ""}),
        (b"[1]", [1]),
    ],
)
def test_a_default_topic_is_for_tasks_that_have_none(line: bytes, expected: Any) -> None:
    """An empty one is one, and wrong."""
    assert json.loads(with_topic(line, "t")) == expected


def test_what_is_no_json_is_left_for_the_reader_to_refuse() -> None:
    """It says what is wrong better."""
    assert with_topic(b"\xff{", "t") == b"\xff{"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """By its name."""
    done = aureon("submit", "tasks.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "aureon: tasks.jsonl: No such file or directory\n")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """It opens like a file on some systems."""
    done = aureon("submit", tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"aureon: {tmp_path}: Is a directory\n")


def test_closed_standard_input_is_refused(tmp_path: Path) -> None:
    """As in `aureon submit - <&-`."""
    command = " ".join(map(str, AUREON)) + " submit - <&-"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, check=False, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "aureon: standard input is closed; name a file, or send the tasks through a pipe\n"


def test_without_a_broker_it_says_how_to_get_one(tmp_path: Path) -> None:
    """And sends nothing."""
    done = aureon("submit", "-", cwd=tmp_path, stdin='{"topic": "math", "payload": {"prompt": "1"}}')
    assert done.returncode == 2
    assert "aureon: no broker: set AUREON_BROKERS" in done.stderr
    assert "`aureon broker --home .aureon`" in done.stderr


def sent(broker: Broker) -> list[tuple[str, int, str, dict[str, Any]]]:
    """Every task on Kafka: (Kafka topic, lane, key, task)."""
    config = client_config(broker.brokers)
    found = []
    for kafka_topic in (TASKS, TASKS_HIGH):
        for lane in range(LANES):
            messages = read_to_end(config, kafka_topic, lane)
            found += [(kafka_topic, lane, (m.key() or b"").decode(), json.loads(m.value() or b"")) for m in messages]
    return found


def test_bad_lines_are_named_and_the_good_ones_are_sent(own_broker: Broker, tmp_path: Path) -> None:
    """Each to its home lane, by its priority, under its id."""
    good: list[dict[str, Any]] = [
        {"topic": "math", "payload": {"prompt": "1+1"}},
        {"topic": "a/b c 🙂", "logical_id": "ü", "payload": {"prompt": "1+1", "own": [1, {"a": None}]}, "priority": 2},
        {"topic": "math", "logical_id": "x", "payload": {"prompt": "1+1"}, "metadata": {"k": "v"}, "priority": 3},
    ]
    bad = [
        b"not json",
        b'{"topic": "math"}',
        b'{"topic": "ma\xffth", "payload": {"prompt": "1"}}',
        b'{"topic": "math", "payload": {"prompt": "1"}, "priority": -1}',
        b'{"topic": "math", "payload": {"prompt": "1"}, "logical_id": "x:r1"}',
        b'{"topic": "math", "payload": {"prompt": "1"}, "colour": "red"}',
        b'{"topic": "math", "payload": {"prompt": "' + b"x" * (1 << 20) + b'"}}',
        b'{"topic": "math", "payload": {"prompt": "1"}, "logical_id": "y", "task_id": "y:r0", "cause": [0, 0, 0, "0"]}',
    ]
    lines = [json.dumps(good[0]).encode(), *bad, json.dumps(good[1]).encode(), b"", json.dumps(good[2]).encode()]
    (tmp_path / "tasks.jsonl").write_bytes(b"\n".join(lines))

    done = aureon("submit", "tasks.jsonl", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers)

    assert done.returncode == 1
    assert done.stdout == f"3 tasks submitted to {own_broker.brokers}, all confirmed, 8 bad lines left out\n"
    said = done.stderr.splitlines()
    assert [line.split(":")[1] for line in said] == [str(n) for n in range(2, 10)]
    for line, reason in zip(
        said,
        (
            "not JSON",
            "`payload`",
            "not UTF-8",
            "$.priority",
            "reserved",
            "`colour`",
            "AUREON_MAX_TASK_BYTES",
            "$.cause",
        ),
        strict=True,
    ):
        assert reason in line, line
    found = {key: (kafka_topic, lane, task) for kafka_topic, lane, key, task in sent(own_broker)}
    ids = [content_id("math", b'{"prompt": "1+1"}'), "ü", "x"]
    assert set(found) == set(ids)
    for logical_id, task, kafka_topic in zip(ids, good, (TASKS, TASKS_HIGH, TASKS), strict=True):
        assert found[logical_id][:2] == (kafka_topic, home_lane(logical_id, LANES))
        assert found[logical_id][2] == {**task, "logical_id": logical_id, "task_id": f"{logical_id}:r0"}


def test_an_empty_file_is_nothing_to_submit(own_broker: Broker, tmp_path: Path) -> None:
    """Which is no failure."""
    done = aureon("submit", "-", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers)
    assert (done.returncode, done.stdout) == (0, "nothing submitted: <stdin> is empty\n")


def test_the_summary_comes_as_json(own_broker: Broker, tmp_path: Path) -> None:
    """For programs; with the topic that the lines lack."""
    lines = '{"payload": {"prompt": "1"}}\n{"topic": 7}\n'
    done = aureon(
        "submit", "-", "--topic", "math", "--json", cwd=tmp_path, stdin=lines, AUREON_BROKERS=own_broker.brokers
    )
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"submitted": 1, "bad": 1, "broker": own_broker.brokers}
    assert [task["topic"] for *_, task in sent(own_broker)] == ["math"]


@pytest.mark.unmeasured
def test_a_large_pipe_passes_through_in_bounded_memory(own_broker: Broker, tmp_path: Path) -> None:
    """40 MB of tasks, and every lane gets its share; what is held is the queue of 32 MB and little else."""
    ensure_topics(client_config(own_broker.brokers), LANES)
    program = (  # not the peak that getrusage tells: a process takes that over from whoever starts it
        "import re, sys\nfrom flows.cli import main\ncode = main(['submit', '-'])\n"
        "status = open('/proc/self/status').read()\n"
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', status)[1]) // 1024, file=sys.stderr)\nsys.exit(code)"
    )
    line = json.dumps({"topic": "math", "logical_id": "NUMBER", "payload": {"prompt": "x" * 300}})

    def peak_mb(count: int, name: str) -> int:
        tasks = "\n".join(line.replace("NUMBER", f"{name}-{n}") for n in range(count))
        done = subprocess.run(
            [AUREON[0], "-c", program],
            cwd=tmp_path,
            env=environment(AUREON_BROKERS=own_broker.brokers),
            input=tasks.encode(),
            capture_output=True,
            check=True,
        )
        assert f"{count:,} tasks submitted" in done.stdout.decode()
        return int(done.stderr.split()[-1])

    small, large = peak_mb(100, "small"), peak_mb(100_000, "large")
    assert large - small < 80
    lanes = Counter(lane for _, lane, *_ in sent(own_broker))
    assert sum(lanes.values()) == 100_100
    assert min(lanes.values()) > 20_000


def test_large_payloads_go_to_the_blob_store(own_broker: Broker, tmp_path: Path) -> None:
    """The id is the one that the payload itself gives; a reference in a line is looked after before it is sent."""
    store = BlobStore(str(tmp_path / "blobs"))
    store.create()
    payload = b'{"prompt": "' + b"x" * 300_000 + b'"}'
    there = encode(store.put(b'{"prompt": "' + b"y" * 300_000 + b'"}'))
    lost = BlobReference("sha256-" + "0" * 64, 5)
    lines = [
        b'{"topic": "math", "payload": ' + payload + b"}",
        b'{"topic": "math", "logical_id": "small", "payload": {"prompt": "1+1"}}',
        b'{"topic": "math", "logical_id": "there", "payload": ' + there + b"}",
        b'{"topic": "math", "logical_id": "lost", "payload": ' + encode(lost) + b"}",
        b'{"topic": "math", "payload": ' + there + b"}",
    ]
    (tmp_path / "tasks.jsonl").write_bytes(b"\n".join(lines))
    blobs = str(tmp_path / "blobs")

    done = aureon("submit", "tasks.jsonl", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers, AUREON_BLOBS=blobs)

    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert len(said) == 2, said
    assert f"tasks.jsonl:4: blob {lost.name} is not in the blob store" in said[0]
    assert "tasks.jsonl:5: needed where the payload is a reference" in said[1]
    found = {key: task["payload"] for *_, key, task in sent(own_broker)}
    large = content_id("math", payload)
    assert set(found) == {large, "small", "there"}
    reference = read_reference(encode(found[large]))
    assert reference is not None
    assert store.get(reference) == payload
    assert found["small"] == {"prompt": "1+1"}
    assert found["there"] == json.loads(there)


def test_a_large_payload_goes_along_where_the_store_of_the_cells_is_not_known(
    own_broker: Broker, tmp_path: Path
) -> None:
    """They may be elsewhere, with a home of their own; whoever takes it puts it in the store."""
    line = json.dumps({"topic": "math", "logical_id": "a", "payload": {"prompt": "x" * 300_000}})
    done = aureon("submit", "-", cwd=tmp_path, stdin=line, AUREON_BROKERS=own_broker.brokers)
    assert done.returncode == 0, done.stderr
    assert [task["payload"] for *_, task in sent(own_broker)] == [{"prompt": "x" * 300_000}]


def test_of_many_bad_lines_the_first_hundred_are_told(own_broker: Broker, tmp_path: Path) -> None:
    """All are counted; what is Aureon's own is refused, too."""
    own = {"topic": "math", "logical_id": "x", "task_id": "x:r0", "generation": 1, "redrive": [0, 0, "x"]}
    first = json.dumps({**own, "payload": {"prompt": "1"}}).encode() + b"\n"
    (tmp_path / "tasks.jsonl").write_bytes(first + b"nonsense\n" * (BAD_LINES_SHOWN + 2))
    done = aureon("submit", "tasks.jsonl", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers)
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert "Aureon's own; leave it out - at `$.redrive`" in said[0]
    assert said[BAD_LINES_SHOWN:] == ["further bad lines are counted, and not shown"]
    assert "103 bad lines left out" in done.stdout


def test_what_is_sent_before_ctrl_c_is_confirmed(own_broker: Broker, tmp_path: Path) -> None:
    """And it is said how much that is."""
    command = [*AUREON, "submit", "-"]
    variables = environment(AUREON_BROKERS=own_broker.brokers)
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, cwd=tmp_path, env=variables, **pipes) as submit:
        assert submit.stdin is not None
        submit.stdin.write(b'{"payload": {"prompt": "1"}}\n{"topic": "math", "payload": {"prompt": "1"}}\n')
        submit.stdin.flush()
        assert submit.stderr is not None
        assert b"`topic`" in submit.stderr.readline()
        until(lambda: sent(own_broker))  # at once, though the pipe is open and there may be more
        submit.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            submit.wait(60)
        if submit.poll() is None:
            # A signal that comes between Python's last look for one and the system call that reads is not seen until
            # there is something to read; whoever has pressed Ctrl-C presses it again.
            submit.send_signal(signal.SIGINT)
        told = submit.stderr.read().decode()
        assert submit.wait(60) == 130
    assert "interrupted after 1 tasks, which are confirmed; submitting the whole file again is harmless" in told
    assert len(sent(own_broker)) == 1


def test_a_task_has_to_fit_with_its_ids(own_broker: Broker) -> None:
    """Which are filled in here, where it has none."""
    config = client_config(own_broker.brokers)
    lanes = ensure_topics(config, LANES).lanes
    line = encode({"topic": "math", "payload": {"prompt": "1"}})
    for limit in (len(line) - 1, len(line)):
        with TaskSender(config, lanes, limit) as sender, pytest.raises(BadRecordError, match="a task may have"):
            sender.add(line)
    assert not sent(own_broker)
