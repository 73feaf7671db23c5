"""`aureon submit --from-one`: tasks that are drawn from the lake, and linked to what they were made from."""

import json
from pathlib import Path
from typing import Any

import pytest

import one_lake
from flows import cli
from flows.commands.from_one import tasks_of
from one_lake.verify import verify
from schemas.errors import BadRecordError, RefusedError
from schemas.task import read_task
from tests.aureon_command import aureon
from tests.brokers import Broker
from tests.one_lake.lake_data import lake_writer, record, round_row

pytestmark = pytest.mark.embedded


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A lake with three records."""
    folder = tmp_path / "lake"
    writer = lake_writer(folder)
    for offset in range(3):
        writer.add([record(0, offset, answer=str(offset)), round_row(0, offset, answer=str(offset))])
    writer.flush()
    writer.close()
    return folder


def drawn(lake: Path, query: str) -> list[Any]:
    """The tasks of a query, as objects; what is none, as text."""
    rows = tasks_of(lake, str(lake.parent / "blobs"), query)
    return [str(line) if isinstance(line, BadRecordError) else json.loads(line) for _, line in rows]


def test_a_row_is_a_task_with_its_sources(lake: Path) -> None:
    """What is no field of a task is its payload."""
    query = """
        SELECT topic, 'Is ' || answer || ' right?' AS prompt, 'text' AS answer_kind, 3 AS priority,
            {'asked': 'again'} AS metadata, [(topic, logical_id)] AS sources
        FROM one WHERE decision_offset = 1
    """
    (task,) = drawn(lake, query)
    assert task == {
        "topic": "math",
        "priority": 3,
        "metadata": {"asked": "again"},
        "sources": [["math", "task-0-1"]],
        "payload": {"prompt": "Is 1 right?", "answer_kind": "text"},
    }
    assert read_task(json.dumps(task).encode())[0].sources[0].logical_id == "task-0-1"


def test_a_task_may_come_of_many_records_and_bring_its_own_payload(lake: Path) -> None:
    """As JSON, or as a structure; what is null is left out."""
    many = """
        SELECT 'math' AS topic, 'all' AS logical_id, '{"prompt":"add up"}' AS payload, NULL AS priority,
            list({'topic': topic, 'logical_id': logical_id} ORDER BY logical_id) AS sources
        FROM one
    """
    (task,) = drawn(lake, many)
    assert task["sources"] == [["math", f"task-0-{i}"] for i in range(3)]
    assert task["payload"] == {"prompt": "add up"}
    assert read_task(json.dumps(task).encode())[0].sources[2].logical_id == "task-0-2"


@pytest.mark.parametrize(
    "query,said",
    [
        ("SELECT topic, answer AS prompt FROM one", "no column `sources`"),
        ("SELECT nothing FROM nowhere", "SQL: "),
        ("DROP TABLE bounds", "SQL: "),
    ],
)
def test_a_query_that_makes_no_tasks_is_refused(lake: Path, query: str, said: str) -> None:
    """With what is missing."""
    with pytest.raises(RefusedError, match=said):
        drawn(lake, query)


def test_a_row_that_is_no_task_is_told_and_the_others_are_not(lake: Path) -> None:
    """By its number."""
    query = """
        SELECT topic, answer AS prompt, [CASE decision_offset WHEN 1 THEN ['x'] ELSE ['math', 'a'] END] AS sources
        FROM one ORDER BY decision_offset
    """
    first, second, third = drawn(lake, query)
    assert first["sources"] == third["sources"] == [["math", "a"]]
    assert second.startswith("no task: expected (topic, logical id) in `sources`")


def test_either_a_file_or_a_query(capsys: pytest.CaptureFixture[str]) -> None:
    """Not both, and not none."""
    for arguments in (["submit"], ["submit", "a.jsonl", "--from-one", "SELECT 1"]):
        assert cli.main(arguments) == 2
        assert "expected a FILE of tasks, or --from-one" in capsys.readouterr().err


@pytest.mark.kafka
def test_what_was_made_of_records_is_linked_to_them(own_broker: Broker, tmp_path: Path) -> None:
    """Over two rounds, in the lake, where the next query finds it."""
    kafka = ("--brokers", own_broker.brokers)
    run = ("run", "--until-idle", "1", "--nodes", "tests.flows.refine_parts:two_round_nodes", *kafka)
    line = json.dumps({"topic": "math", "logical_id": "first", "payload": {"prompt": "6*7"}})
    assert aureon("submit", "-", *kafka, cwd=tmp_path, stdin=line).returncode == 0
    assert aureon(*run, cwd=tmp_path).returncode == 0
    query = "SELECT topic, 'Is it ' || answer AS prompt, [(topic, logical_id)] AS sources FROM one"
    done = aureon("submit", "--from-one", query, *kafka, cwd=tmp_path)
    assert "1 task submitted" in done.stdout, done.stderr
    assert aureon(*run, cwd=tmp_path).returncode == 0
    with one_lake.connect(tmp_path / ".aureon/lake") as lake:
        (link,) = lake.sql("SELECT logical_id, source_topic, source_id FROM sources").fetchall()
        weights = dict(lake.sql("SELECT logical_id, descendants_good FROM weights").fetchall())
        rounds = lake.sql("SELECT max(round_index) FROM rounds").fetchall()
    assert link[1:] == ("math", "first")
    assert weights == {"first": 1, link[0]: 0}
    assert rounds == [(1,)]
    assert verify(tmp_path / ".aureon/lake").is_sound


def test_metadata_may_be_json(lake: Path) -> None:
    """As a record has it."""
    query = """
        SELECT topic, 'Why?' AS prompt, '{"asked": "again"}' AS metadata, [(topic, logical_id)] AS sources
        FROM one WHERE decision_offset = 1
    """
    (task,) = drawn(lake, query)
    assert task["metadata"] == {"asked": "again"}
