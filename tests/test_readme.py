"""What README shows works."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import jsonschema  # type: ignore[import-untyped] # it comes with Great Expectations, without types
import pytest

import one_lake
from connectors.nodes.nodes_file import parse_nodes
from flows.commands.from_one import tasks_of
from flows.commands.schema import schema_of
from flows.prompts import Prompts
from flows.supervision import Case, wants_more
from flows.supervision.file import BUILT_IN, DEFAULT, parse_supervision
from one_lake.expectations import suite
from one_lake.gate import configurations_of
from schemas.decision import RoundResult
from schemas.task import read_task
from tests.aureon_command import AUREON, ROOT, aureon, environment, until
from tests.brokers import Broker
from tests.flows.replays.past import write_many
from tests.one_lake.lake_data import lake_writer, record, round_row

README = (ROOT / "README.md").read_text()


def block(language: str, mark: str) -> str:
    """The code block of a language that holds a mark."""
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if mark in b]
    assert len(found) == 1, f"{len(found)} blocks with {mark!r}"
    return str(found[0])


def test_the_task_is_one() -> None:
    """By the schema and by the reader."""
    task = block("json", "logical_id")
    jsonschema.Draft202012Validator(schema_of("task")).validate(json.loads(task))
    read_task(task.encode())


def test_the_folders_are_there() -> None:
    """And no other."""
    folders = re.findall(r"^\| `(\w+)/` \|", README, re.MULTILINE)
    assert folders == ["flows", "connectors", "schemas", "one_lake", "tests"]
    assert all((ROOT / folder).is_dir() for folder in folders)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a lake of some records, and a run over it."""
    folder = tmp_path_factory.mktemp("home")
    write_many(folder / ".aureon" / "lake", 30)
    done = aureon("replay", "re-decide", "--run", "stricter", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("mark", ["FROM run('stricter')", "FROM conflicts"])
def test_the_queries_of_replays_and_merges_run(home: Path, mark: str) -> None:
    """On a lake that has the one, and has never seen the other."""
    with one_lake.connect(home / ".aureon" / "lake") as lake:
        lake.execute(block("sql", mark)).fetchall()


@pytest.mark.parametrize("mark", [").df()", "import DeltaTable", "import polars"])
def test_other_libraries_read_the_tables(home: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As README shows it; what is not installed has been tried by hand."""
    if "polars" in mark and importlib.util.find_spec("polars") is None:
        pytest.skip("polars is not installed")
    monkeypatch.chdir(home)
    told: dict[str, Any] = {}
    exec(block("python", mark), told)  # noqa: S102 - our own README
    assert "frame" not in told or len(told["frame"]) == 30


def test_the_queries_run(tmp_path: Path) -> None:
    """On an empty lake as on any."""
    lake_writer(tmp_path).close()
    with one_lake.connect(tmp_path) as lake:
        statements = duckdb.extract_statements(block("sql", "FROM one"))
        assert len(statements) == 10
        for statement in statements:
            lake.execute(statement).fetchall()


def test_own_nodes_and_the_reader_of_results(own_broker: Broker, tmp_path: Path) -> None:
    """The nodes of README answer a task, and the reader of README is told once, whoever says it again."""
    node = block("python", "class Shell").replace('Shell("bc", "-l")', 'Shell("sh", "-c", "cat > /dev/null; echo 42")')
    (tmp_path / "my_nodes.py").write_text(node)
    task = json.dumps({"topic": "anything", "logical_id": "deep", "payload": {"prompt": "?", "answer_kind": "number"}})
    brokers = own_broker.brokers
    assert aureon("submit", "-", cwd=tmp_path, stdin=task, AUREON_BROKERS=brokers).returncode == 0
    command = ("run", "--until-idle", "1", "--nodes", "my_nodes:nodes")
    done = aureon(*command, cwd=tmp_path, AUREON_BROKERS=brokers)
    assert done.returncode == 0, done.stderr
    assert "1 nodes: shell" in done.stderr

    reader = block("python", "subscribe").replace("127.0.0.1:9092", brokers)
    with (tmp_path / "read.txt").open("wb") as read:
        process = subprocess.Popen([AUREON[0], "-c", reader], cwd=tmp_path, env=environment(), stdout=read)
    try:
        until((tmp_path / "read.txt").read_text, 30)
        assert (tmp_path / "read.txt").read_text() == "anything deep 42\n"
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()


def test_the_supervision_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the policy of README in it, which finds what it says."""
    (tmp_path / "my_policies.py").write_text(block("python", "class Shouting"))
    monkeypatch.syspath_prepend(tmp_path)
    supervisor = parse_supervision(block("toml", "[[policy]]").encode())
    assert [e.policy.name.partition("(")[0] for e in supervisor.entries] == [
        "insults",
        "answer_format",
        "shouting",
        "topic_health",
    ]
    result = RoundResult(answer="IT IS 42", score=0.9, confidence=0.9, agreement=1.0, evidence="self")
    assert wants_more(supervisor.examine(Case(result=result))) == "it shouts"


def test_the_table_of_policies_is_whole() -> None:
    """Each with the action that it has where no file says otherwise."""
    told = dict(re.findall(r"^\| `(\w+)` \| (?:`(\w+)`|not asked) \|", README, re.MULTILINE))
    assert {use: told[use] for use in BUILT_IN} == {
        use: rule.__struct_defaults__[rule.__struct_fields__.index("action")] if rule in DEFAULT else ""
        for use, rule in BUILT_IN.items()
    }


def test_what_supervision_found_can_be_asked_for(tmp_path: Path) -> None:
    """On an empty lake as on any."""
    lake_writer(tmp_path).close()
    with one_lake.connect(tmp_path) as lake:
        assert lake.sql(block("sql", "what supervision found")).fetchall() == []
        lake.sql("CREATE TEMP TABLE rounds AS SELECT 'math' AS topic, NULL::VARCHAR AS findings")
        lake.sql("""INSERT INTO rounds VALUES ('math', '[{"policy":"bias(reject)","action":"reject","reason":"x"}]')""")
        found = lake.sql(block("sql", "what supervision found").replace("FROM rounds", "FROM temp.rounds")).fetchall()
    assert found == [("math", "bias(reject)", "reject", 1, None)]


def test_the_nodes_file_is_one() -> None:
    """Each of its fields is known, and its prompts name what there is."""
    found = parse_nodes(block("toml", "[[node]]").encode())
    assert [entry.id for entry in found.node] == ["local", "paid", "exact"]
    Prompts(found.prompts)


def test_the_suite_of_expectations_is_one(tmp_path: Path) -> None:
    """It is added to those built in."""
    (tmp_path / "suite.json").write_text(block("json", "expect_column"))
    configurations = configurations_of(str(tmp_path / "suite.json"))
    assert configurations is not None
    assert configurations[:-1] == suite()


def test_the_query_that_tasks_come_from_gives_tasks(tmp_path: Path) -> None:
    """Of a record that does not weigh much."""
    writer = lake_writer(tmp_path)
    writer.add([record(0, 0, evidence="none"), round_row(0, 0)])
    writer.flush()
    writer.close()
    query = re.search(r'--from-one "(.*?)"', README, re.DOTALL)
    assert query is not None
    ((_, line),) = tasks_of(tmp_path, str(tmp_path / "blobs"), query[1])
    assert isinstance(line, bytes)
    assert read_task(line)[0].sources[0].logical_id == "task-0-0"
