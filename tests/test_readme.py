"""What README and the guide show works, what they name is there, and what they list is whole."""

import fnmatch
import importlib.util
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import duckdb
import jsonschema  # type: ignore[import-untyped] # it comes with Great Expectations, without types
import msgspec
import pytest

import one_lake
from connectors.nodes.nodes_file import KINDS, parse_nodes
from flows.branching import make_planner
from flows.commands.arguments import make_parser
from flows.commands.from_one import tasks_of
from flows.commands.schema import schema_of
from flows.policies import CRITERIA
from flows.prompts import Prompts
from flows.settings import Settings
from flows.supervision import Case, wants_more
from flows.supervision.file import BUILT_IN, DEFAULT, parse_supervision
from one_lake.expectations import suite
from one_lake.gate import configurations_of
from schemas.decision import RoundResult
from schemas.errors import BadRecordError
from schemas.task import read_task
from tests.aureon_command import AUREON, ROOT, aureon, environment, until
from tests.brokers import Broker
from tests.flows.replays.past import write_many
from tests.one_lake.lake_data import lake_writer, record, round_row
from tests.pages import ALL_PAGES, FOLDERS, GUIDE, PAGES, README, Block, anchors, block, blocks, guide, prose


def test_a_stranger_does_not_drown() -> None:
    """README is short; what is more goes into the guide."""
    assert len(README.splitlines()) <= 300


@pytest.mark.parametrize("path", ALL_PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path: Path) -> None:
    """To a file or a folder, and where it names a heading, to one."""
    for link in re.findall(r"\]\(([^()\s]+)\)", prose(path.read_text())):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_every_page_of_the_guide_is_in_both_lists() -> None:
    """Of README, and of the guide's own."""
    pages = sorted(path.name for path in GUIDE.glob("*.md") if path.name != "README.md")
    assert sorted(re.findall(r"^\| \[[^\]]*\]\(flows/guide/(\w+\.md)\) \|", README, re.MULTILINE)) == pages
    assert sorted(re.findall(r"\]\((\w+\.md)\)", guide("README"))) == pages


def test_the_guide_is_shipped() -> None:
    """And links to nothing in the folders that is not."""
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for path in GUIDE.glob("*.md"):
        for link in re.findall(r"\]\((\.\.[^()#\s]+)", prose(path.read_text())):
            target = (path.parent / link).resolve()
            package = target.parent.relative_to(ROOT).as_posix().replace("/", ".")
            patterns = ["*.py", *shipped["*"], *shipped.get(package, [])]
            assert any(fnmatch.fnmatch(target.name, pattern) for pattern in patterns), f"{path.name}: {link}"


COMMAND = r"(?:\.venv/bin/)?aureon "
IN_CONSOLE = rf"(?m)^\$ (?:[A-Z_]+=\S+ )*{COMMAND}((?:\"[^\"]*\"|[^\n\"&|>])*)"
IN_FILES = rf"(?m)(?:^|[\s\"]){COMMAND}([^\n\"'&|>#]+)"
IN_PROSE = rf"`{COMMAND}([^`&|>]* --[^`&|>]*)"
SHOWN = [
    *(b._replace(text=line) for b in blocks("console") for line in re.findall(IN_CONSOLE, b.text)),
    *(
        b._replace(text=line)
        for name in ("", "ini", "yaml")
        for b in blocks(name)
        for line in re.findall(IN_FILES, b.text)
    ),
    *(Block(path.name, "", line) for path in PAGES for line in re.findall(IN_PROSE, prose(path.read_text()))),
]


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: f"{shown.page}: {shown.text.strip()[:40]}")
def test_the_commands_shown_are_some(shown: Block) -> None:
    """Their flags too."""
    make_parser().parse_args(shlex.split(re.sub(r"\$\(.*?\)", "2026-11-27", shown.text)))


def test_no_command_is_overlooked() -> None:
    """All that a terminal shows of `aureon`."""
    assert len([s for s in SHOWN if s.language == "console"]) == sum(
        len(re.findall(r"(?m)^\$ .*\baureon ", b.text)) for b in blocks("console")
    )


def test_the_table_of_commands_is_whole() -> None:
    """Each has a row, and no other."""
    (choices,) = (action.choices for action in make_parser()._actions if isinstance(action.choices, dict))
    assert set(re.findall(r"^\| `aureon (\w+)", guide("commands"), re.MULTILINE)) == set(choices)


def test_the_kinds_of_nodes_are_told() -> None:
    """Where users write them."""
    assert {kind for kind in KINDS if f'kind = "{kind}"' not in guide("models")} == set()


def described_settings() -> dict[str, dict[str, str]]:
    """The settings as their JSON Schema has them."""
    (schema,) = msgspec.json.schema_components([Settings])[1].values()
    return dict(schema["properties"])


def test_the_table_of_settings_is_whole() -> None:
    """In their order, each with its default and what it says of itself."""
    rows = re.findall(r"^\| `AUREON_(\w+)` \| (?:`(.*?)`)? \| (.*?) \|$", guide("settings"), re.MULTILINE)
    defaults = zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True)
    described = {name: schema["description"].replace("`", "") for name, schema in described_settings().items()}
    expected = [(name.upper(), str(default), described[name]) for name, default in defaults]
    assert [(name, default, told.replace("`", "")) for name, default, told in rows] == expected


@pytest.mark.parametrize("path", ALL_PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_variables_named_are_settings(path: Path) -> None:
    """But for those of the tests, and one that is bad input."""
    named = set(re.findall(r"\bAUREON_([A-Z]\w*)", path.read_text()))
    assert {name.lower() for name in named - {"TEST_KAFKA", "BENCH_SCALE", "MAX_ROUND"}} <= {
        *Settings.__struct_fields__
    }


def test_the_first_tasks_are_what_is_said_of_them() -> None:
    """Of those in README one is bad; and those of the guide are the same."""
    (lines,) = {tuple(re.findall(r"^\{.*\}$", b.text, re.MULTILINE)) for b in blocks("console", "$ cat tasks.jsonl")}
    for good in (lines[0], lines[2]):
        read_task(good.encode())
    with pytest.raises(BadRecordError, match=re.escape("empty: needs `prompt` (text) or `messages` (a list)")):
        read_task(lines[1].encode())
    assert len(lines) == 3


@pytest.mark.parametrize("shown", blocks("python"), ids=lambda shown: f"{shown.page}: {shown.text[:30]}")
def test_python_is_python(shown: Block) -> None:
    """Also where it needs what is not here to run."""
    compile(shown.text, shown.page, "exec")


def test_the_task_is_one() -> None:
    """By the schema and by the reader."""
    task = block("json", "logical_id")
    jsonschema.Draft202012Validator(schema_of("task")).validate(json.loads(task))
    read_task(task.encode())


def test_the_folders_are_there() -> None:
    """And no other."""
    folders = re.findall(r"^\| `(\w+)/` \|", README, re.MULTILINE)
    assert folders == [*FOLDERS]
    assert all((ROOT / folder).is_dir() for folder in folders)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a lake of some records, and a run over it."""
    folder = tmp_path_factory.mktemp("home")
    write_many(folder / ".aureon" / "lake", 30)
    done = aureon("replay", "re-decide", "--run", "stricter", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("shown", blocks("sql"), ids=lambda shown: f"{shown.page}: {shown.text[:30]}")
def test_the_queries_run(home: Path, shown: Block) -> None:
    """On a lake that has records and a run, and has never seen a merge or a supervision root."""
    with one_lake.connect(home / ".aureon" / "lake") as lake:
        for statement in duckdb.extract_statements(shown.text):
            lake.execute(statement).fetchall()


@pytest.mark.parametrize("mark", [").df()", "import DeltaTable", "import polars"])
def test_other_libraries_read_the_tables(home: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the guide shows it; what is not installed has been tried by hand."""
    if "polars" in mark and importlib.util.find_spec("polars") is None:
        pytest.skip("polars is not installed")
    monkeypatch.chdir(home)
    told: dict[str, Any] = {}
    exec(block("python", mark), told)  # noqa: S102 - our own guide
    assert "frame" not in told or len(told["frame"]) == 30


def test_the_queries_run_on_an_empty_lake(tmp_path: Path) -> None:
    """As on any."""
    lake_writer(tmp_path).close()
    with one_lake.connect(tmp_path) as lake:
        statements = duckdb.extract_statements(block("sql", "FROM one"))
        assert len(statements) == 11
        for statement in statements:
            lake.execute(statement).fetchall()


def test_own_nodes_and_the_reader_of_results(own_broker: Broker, tmp_path: Path) -> None:
    """The nodes of the guide answer a task, and its reader is told once, whoever says it again."""
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
        until((tmp_path / "read.txt").read_text, 60)
        assert (tmp_path / "read.txt").read_text() == "anything deep 42\n"
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()


def test_the_supervision_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the policy of the guide in it, which finds what it says."""
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


def test_the_table_of_criteria_is_whole() -> None:
    """And so is the setting's description."""
    named = {*CRITERIA, "any", "all"}
    rows = re.findall(r"^\| (`.*?) \|", guide("convergence").split("\n\n## ")[0], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)", row)} == {*named, "module"}
    (meta,) = get_type_hints(Settings, include_extras=True)["policy"].__metadata__
    assert set(re.findall(r"[a-z]+", meta.description.partition(": ")[2])) == {*named, "or", "yours"}


def test_the_table_of_policies_is_whole() -> None:
    """Each with the action that it has where no file says otherwise."""
    told = dict(re.findall(r"^\| `(\w+)` \| (?:`(\w+)`|not asked) \|", guide("supervision"), re.MULTILINE))
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


def test_the_nodes_files_are_some() -> None:
    """Each of their fields is known, and the prompts name what there is."""
    found = parse_nodes(block("toml", "[[node]]").encode())
    assert [entry.id for entry in found.node] == ["local", "paid", "exact"]
    Prompts(found.prompts)
    first = re.search(r"^\$ cat nodes.toml\n(.*?)^\$ ", README, re.DOTALL | re.MULTILINE)
    assert first is not None
    assert [entry.id for entry in parse_nodes(first[1].encode()).node] == ["local", "exact"]


def test_the_file_of_branches_is_one(tmp_path: Path) -> None:
    """That a planner can be made of."""
    (tmp_path / "branching.toml").write_text(block("toml", "[[follow_up]]"))
    make_planner(Settings(branching=str(tmp_path / "branching.toml")))


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
    query = re.search(r'--from-one "(.*?)"', guide("tasks"), re.DOTALL)
    assert query is not None
    ((_, line),) = tasks_of(tmp_path, str(tmp_path / "blobs"), query[1])
    assert isinstance(line, bytes)
    assert read_task(line)[0].sources[0].logical_id == "task-0-0"
