"""The quality gate: what is no record is a dead letter, whatever batch it came in and whoever died meanwhile."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import one_lake
from one_lake.encode import encode_rows, record_batch
from one_lake.expectations import FEWEST, Configuration, derived, suite
from one_lake.gate import Judged, QualityGate, Refused, configurations_of
from one_lake.gating import Routes
from one_lake.verify import verify
from one_lake.writer import LakeWriter, _by_table
from schemas.errors import RefusedError
from schemas.one import Record, Row
from tests.aureon_command import ROOT
from tests.one_lake.lake_data import CLUSTER, KEY, dead_letter, decision, record, round_row

BAD = {"confidence": 1.5}


@pytest.fixture(scope="module")
def gate() -> Iterator[QualityGate]:
    """Start a gate, once: that takes some seconds."""
    opened = QualityGate(suite())
    yield opened
    opened.close()


class KeptOpen:
    """A gate that several writers use, one after the other."""

    def __init__(self, gate: QualityGate) -> None:
        self.judge = gate.judge

    def close(self) -> None:
        """It goes on."""


class Threshold:
    """A gate that refuses records with an odd offset, or all above a limit: one that can be changed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def judge(self, rows: object) -> Judged:
        """By the offset alone."""
        offsets = rows["decision_offset"].to_pylist()  # type: ignore[index]
        return Judged([Refused(at, "limit") for at, offset in enumerate(offsets) if offset >= self._limit], [])

    def close(self) -> None:
        """There is nothing to close."""


def writer_with(lake: Path, gate: object) -> LakeWriter:
    """Open a lake with a gate."""
    return LakeWriter(lake, KEY, CLUSTER, gate)  # type: ignore[arg-type]


def of(lake: Path, query: str) -> list[tuple[object, ...]]:
    """Ask it."""
    with one_lake.connect(lake) as connection:
        return connection.sql(query).fetchall()


@pytest.mark.parametrize(
    "changes,expectation",
    [
        ({"confidence": 1.5}, "expect_column_values_to_be_between(column='confidence', min_value=0.0, max_value=1.0)"),
        ({"topic": ""}, "expect_column_value_lengths_to_be_between(column='topic', min_value=1): got ''"),
        ({"cost": -1.0}, "expect_column_values_to_be_between(column='cost', min_value=0.0): got -1.0"),
        ({"evidence": "hearsay"}, "expect_column_values_to_be_in_set(column='evidence'"),
        ({"content_hash": "00"}, "expect_column_values_to_match_regex(column='content_hash'"),
        ({"answer": None}, "expect_column_values_to_not_be_null(column='answer')"),
        ({"started_at": 1_900_000_000_000_000}, "expect_column_pair_values_a_to_be_greater_than_b"),
        ({"payload": "nonsense", "content_hash": "0" * 64}, "expect_column_values_to_match_regex(column='payload'"),
    ],
)
def test_a_record_that_fails_is_told_with_the_expectation(
    gate: QualityGate, changes: dict[str, object], expectation: str
) -> None:
    """By its number in the batch; the others pass."""
    rows = [record(0, 0), record(0, 1, **changes), record(0, 2)]
    judged = gate.judge(record_batch(Record, encode_rows(rows)))
    assert [each.row for each in judged.refused] == [1]
    assert judged.refused[0].expectation.startswith(expectation)


def test_what_is_over_many_rows_raises_an_alert_and_refuses_none(gate: QualityGate) -> None:
    """Two records of one id, and most of them forced; of a few, most are no news."""
    rows = [record(0, offset, logical_id="same", forced=True) for offset in range(FEWEST)]
    judged = gate.judge(record_batch(Record, encode_rows(rows)))
    assert not judged.refused
    told = [alert.partition("(")[0] for alert in judged.alerts]
    assert told == ["expect_compound_columns_to_be_unique", "expect_column_values_to_be_in_set"]
    few = gate.judge(record_batch(Record, encode_rows(rows[1:])))
    assert [alert.partition("(")[0] for alert in few.alerts] == told[:1]


def test_expectations_follow_from_the_schema() -> None:
    """Each constraint of a column is one."""
    columns = [e["kwargs"]["column"] for e in derived(Record)]
    assert {"score", "topic", "content_hash", "evidence", "decision_hash", "cost"} <= set(columns)
    assert len(columns) == len(set(columns))


def test_refused_records_are_dead_letters_and_the_lake_is_sound(
    tmp_path: Path, gate: QualityGate, caplog: pytest.LogCaptureFixture
) -> None:
    """In the order of their decisions, among other dead letters."""
    writer = writer_with(tmp_path, KeptOpen(gate))
    rows: list[Row] = []
    for offset in range(12):
        rows += decision(0, offset) if offset % 4 else [record(0, offset, **BAD), round_row(0, offset)]
    with caplog.at_level(logging.WARNING):
        writer.add(rows)
        writer.flush()
    writer.close()
    assert of(tmp_path, "SELECT decision_offset FROM records ORDER BY ALL") == [(3,), (6,), (9,)]
    refused = of(
        tmp_path,
        "SELECT decision_offset, reason, topic, task_id, kafka_topic, message_offset, detail FROM dead_letters "
        "WHERE reason = 'quality_gate' ORDER BY ALL",
    )
    assert [row[:6] for row in refused] == [
        (offset, "quality_gate", "math", f"task-0-{offset}:r0", "tasks.global", offset) for offset in (0, 4, 8)
    ]
    assert "got 1.5" in str(refused[0][6])
    assert of(tmp_path, "SELECT count(*) FROM dead_letters") == [(6,)]
    report = verify(tmp_path)
    assert report.is_sound, report.first


def test_a_replay_sends_no_record_elsewhere(tmp_path: Path) -> None:
    """Not even when the gate has changed: what is there stays, and is there once."""
    rows = [row for offset in range(10) for row in (record(0, offset), round_row(0, offset))]
    first = writer_with(tmp_path, Threshold(5))
    first.add(rows)
    first.flush()
    first.close()
    for limit in (0, 5, 100):
        again = writer_with(tmp_path, Threshold(limit))
        again.add(rows)
        again.flush()
        again.close()
    assert of(tmp_path, "SELECT decision_offset FROM records ORDER BY ALL") == [(o,) for o in range(5)]
    assert of(tmp_path, "SELECT decision_offset FROM dead_letters ORDER BY ALL") == [(o,) for o in range(5, 10)]
    assert verify(tmp_path).is_sound


@pytest.mark.parametrize("seed", range(12))
def test_where_a_record_went_in_a_commit_that_was_cut_off_it_stays(tmp_path: Path, seed: int) -> None:
    """One table or the other was committed, `rounds` was not, and the gate is another one now."""
    chance = random.Random(seed)
    verdicts = [{o for o in range(12) if chance.random() < 0.5} for _ in range(3)]

    class Chosen(Threshold):
        def __init__(self, refused: set[int]) -> None:
            self._refused = refused

        def judge(self, rows: object) -> Judged:
            offsets = rows["decision_offset"].to_pylist()  # type: ignore[index]
            return Judged([Refused(at, "so") for at, offset in enumerate(offsets) if offset in self._refused], [])

    def rows(end: int) -> list[Row]:
        return [
            row
            for offset in range(end)
            for row in (
                (record(0, offset), round_row(0, offset))
                if offset % 5
                else (dead_letter(0, offset), round_row(0, offset, kind="dead"))
            )
        ]

    for at, refused in enumerate(verdicts[:2]):
        dying = writer_with(tmp_path, Chosen(refused))
        dying.add(rows(6 + 3 * at))
        assert dying._gating is not None
        for struct, some in _by_table(dying._gating.drain()).items():
            if some:
                dying._tables[struct].add(some)
        name = chance.choice(["records", "dead_letters"])
        for table in dying._first:
            table.finish_staging()
            if table.name == name:
                table.commit({}).result()
        dying.close()
    last = writer_with(tmp_path, Chosen(verdicts[2]))
    last.add(rows(12))
    last.flush()
    last.close()
    ended = of(tmp_path, "SELECT decision_offset FROM records UNION ALL SELECT decision_offset FROM dead_letters")
    assert sorted(ended) == [(offset,) for offset in range(12)], "each once"
    report = verify(tmp_path)
    assert report.is_sound, report.first


@given(st.integers(-1, 5), st.integers(-1, 9), st.integers(-1, 9), st.sets(st.integers(0, 9)))
def test_a_route_is_settled_where_either_table_has_got(rounds: int, records: int, dead: int, there: set[int]) -> None:
    """And nowhere else."""
    routes = Routes(
        rounds,
        records,
        dead,
        frozenset(o for o in there if rounds < o <= records),
        frozenset(o for o in set(range(10)) - there if rounds < o <= dead),
    )
    for offset in range(rounds + 1, 10):
        settled = routes.goes_where_it_went(offset)
        assert (settled is None) == (offset > max(records, dead))
        if settled is not None:
            assert settled == (offset in there)


def test_a_gate_that_is_killed_is_started_again(gate: QualityGate) -> None:
    """The batch is judged once more."""
    batch = record_batch(Record, encode_rows([record(0, 0, **BAD)]))
    gate.judge(batch)
    gate._process.kill()
    assert [each.row for each in gate.judge(batch).refused] == [0]


def test_a_gate_is_not_ended_by_what_ends_its_cell(gate: QualityGate, caplog: pytest.LogCaptureFixture) -> None:
    """Ctrl-C on a terminal, or a stop of all processes at once: the last records are still to be judged."""
    batch = record_batch(Record, encode_rows([record(0, 0, **BAD)]))
    gate.judge(batch)
    assert os.getpgid(gate._process.pid) != os.getpgid(0)
    gate._process.terminate()
    assert [each.row for each in gate.judge(batch).refused] == [0]
    assert not caplog.text


def test_a_gate_that_is_killed_is_started_again_whatever_it_was_to_judge(gate: QualityGate) -> None:
    """Also where not all of that had been sent."""
    batch = record_batch(Record, encode_rows([record(0, n, answer="x" * 50_000) for n in range(20)]))
    gate.judge(batch)
    gate._process.kill()
    gate._process.wait()
    assert gate.judge(batch) == Judged([], [])


@pytest.mark.unmeasured
def test_the_process_of_a_gate_ends_with_its_input_while_it_still_imports() -> None:
    """A killed cell leaves none behind that keeps a core busy for its next life."""
    gate = QualityGate(suite())
    process = gate._process
    time.sleep(0.5)
    assert process.poll() is None
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    assert process.wait(60) == 0
    assert process.stdout.read() == b"", "it had imported all by then, for it said that it was ready"
    gate.close()


def judgements(suite_of: list[Configuration], *batches: list[Record]) -> list[dict[str, Any]]:
    """What the process says, line by line, before it ends with its input."""
    command = [sys.executable, "-m", "one_lake.gate_process", json.dumps(suite_of)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told = [process.stdout.readline()]
        for rows in batches:
            buffer, batch = pa.BufferOutputStream(), record_batch(Record, encode_rows(rows))
            with pa.ipc.new_stream(buffer, batch.schema) as stream:
                stream.write_batch(batch)
            data = buffer.getvalue().to_pybytes()
            process.stdin.write(len(data).to_bytes(8, "little") + data)
            process.stdin.flush()
            told.append(process.stdout.readline())
        process.stdin.close()
        assert process.wait(60) == 0
    return [json.loads(line) for line in told]


def test_the_process_of_a_gate_judges_batch_after_batch_until_its_input_ends() -> None:
    """A record is refused; an alert is raised over many, where a mean is off, and where there is nothing to ask of."""
    mean: Configuration = {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "score", "max_value": 0.8}}
    unasked: Configuration = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "nowhere"}}
    ready, sound, bad, same, off = judgements(
        [*suite(), mean],
        [record(0, 0)],
        [record(0, 0), record(0, 1, **BAD)],
        [record(0, offset, logical_id="same") for offset in range(3)],
        [record(0, 0, score=0.9)],
    )
    assert ready == {"ready": True}
    assert sound == {"refused": [], "alerts": []}
    assert [each["row"] for each in bad["refused"]] == [1]
    assert [alert.partition("(")[0] for alert in same["alerts"]] == ["expect_compound_columns_to_be_unique"]
    assert off["alerts"] == ["expect_column_mean_to_be_between(column='score', max_value=0.8): got 0.9"]
    _, unknown = judgements([unasked], [record(0, 0)])
    (alert,) = unknown["alerts"]
    assert alert.startswith("expect_column_values_to_not_be_null(column='nowhere'): ")
    assert '"nowhere" in BatchData does not exist' in alert


def test_the_process_of_a_gate_ends_where_an_expectation_is_none() -> None:
    """It says which."""
    (told,) = judgements([{"type": "expect_miracles", "kwargs": {}}])
    assert "expect_miracles" in told["error"]


def test_a_gate_whose_process_ends_again_and_again_says_so() -> None:
    """An error of the system, which ends the cell."""
    gate = QualityGate(suite())
    batch = record_batch(Record, encode_rows([record(0, 0)]))
    assert gate.judge(batch.slice(0, 0)) == Judged([], [])
    gate._command = [sys.executable, "-c", ""]
    gate._process.kill()
    with pytest.raises(OSError, match="the quality gate's process ended twice while it judged 1 records"):
        gate.judge(batch)
    gate.close()


def test_a_gate_that_is_closed_while_it_judges_is_not_started_again() -> None:
    """Whoever waits for its judgement is told."""
    gate = QualityGate(suite())
    gate._process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        judged = thread.submit(gate.judge, record_batch(Record, encode_rows([record(0, 0)])))
        with pytest.raises(TimeoutError):
            judged.result(0.3)
        gate.close()
        with pytest.raises(OSError, match="the quality gate is closed"):
            judged.result(20)


def test_a_suite_of_ones_own_is_added(tmp_path: Path) -> None:
    """In the form in which Great Expectations keeps it."""
    path = tmp_path / "suite.json"
    own = {"type": "expect_column_value_lengths_to_be_between", "kwargs": {"column": "answer", "max_value": 3}}
    path.write_text(json.dumps({"name": "mine", "expectations": [own]}))
    configurations = configurations_of(str(path))
    assert configurations is not None
    assert configurations[-1] == own
    assert len(configurations) == len(suite()) + 1
    mine = QualityGate([own])
    try:
        judged = mine.judge(record_batch(Record, encode_rows([record(0, 0), record(0, 1, answer="too long")])))
    finally:
        mine.close()
    assert [each.row for each in judged.refused] == [1]


def test_a_suite_that_is_none_is_refused(tmp_path: Path) -> None:
    """With what it lacks; one that names no expectation too."""
    assert configurations_of("off") is None
    with pytest.raises(RefusedError, match="expected on, off, or a file"):
        configurations_of(str(tmp_path / "nowhere"))
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(RefusedError, match="no suite of Great Expectations"):
        configurations_of(str(tmp_path / "none.json"))
    wrong = QualityGate([{"type": "expect_miracles", "kwargs": {}}])
    try:
        with pytest.raises(RefusedError, match="expect_miracles"):
            wrong.judge(record_batch(Record, encode_rows([record(0, 0)])))
    finally:
        wrong.close()
