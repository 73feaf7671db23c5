"""What earlier versions left in the middle of their work: this one goes on with it, and with their lakes.

Each archive in `tests/data`, named by its commit, is a home folder, cut off by kill -9, with the embedded broker and
what that held. Whoever changes what is kept between two lives makes one more with `tests.data.keep`, from the commit
before the change, and deletes none.
"""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

import one_lake
from schemas.one import TABLES
from tests.aureon_command import ROOT, aureon, running, until

ARCHIVES = sorted((ROOT / "tests" / "data").glob("*.tar.xz"))
VIEWS = (
    *("one", "records", "rounds", "branches", "dead_letters", "answers", "nodes", "agreement", "costs", "sources"),
    *("weights", "supervision", "conflicts", "superseded", "lineage('spawning-0')"),
)
REDECIDE = ["replay", "re-decide", "--run", "again"]
KEPT_LONG = "1e9"
"""What archives hold grows older than what a ledger keeps."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The home folder of an archive."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "home"


def stored(lake: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """All rows of a lake, by table, lane, decision and index."""
    found = {}
    for table in TABLES:
        for row in DeltaTable(str(lake / table)).to_pyarrow_table().to_pylist():
            found[table, row["lane"], row["decision_offset"], row.get("index", 0)] = row
    return found


def asked(lake: Path, query: str) -> list[Any]:
    """What a query over a lake gives."""
    with one_lake.connect(lake) as connection:
        return connection.sql(query).fetchall()


def run(home: Path) -> str:
    """Have a cell do what there is to do; returns what it said."""
    done = aureon("run", "--until-idle", "3", "--home", home, cwd=home, timeout_s=150, AUREON_LEDGER_AGE_S=KEPT_LONG)
    assert done.returncode == 0, done.stderr
    assert "ignored" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize("loses", ["nothing", "state"])
def test_what_was_begun_is_finished_once(home: Path, loses: str) -> None:
    """Each task ends, none twice, and what readers have seen stays as it was; without the state folder, too."""
    lake = home / "lake"
    tasks = [json.loads(line)["logical_id"] for line in (home / "tasks.jsonl").read_text().splitlines()]
    before = stored(lake)
    assert 15 < sum(name[0] == "records" for name in before) < len(tasks), "some are open"
    shutil.rmtree(home / loses, ignore_errors=True)
    had_ledger = (home / "state" / "calls.sqlite").exists()
    told = run(home)
    assert ("finished calls were taken from the ledger" in told) == had_ledger
    after = stored(lake)
    for name, row in before.items():
        assert row.items() <= after[name].items()
    ended = "SELECT logical_id FROM one UNION ALL SELECT logical_id FROM dead_letters UNION ALL "
    ended += "SELECT logical_id FROM rounds WHERE kind = 'cancelled'"
    branches = [name for (name,) in asked(lake, "SELECT logical_id FROM branches")]
    assert len(branches) >= 3
    assert sorted(name for (name,) in asked(lake, ended)) == sorted([*tasks, *branches])
    messages = "SELECT count(*), count(DISTINCT (lane, kafka_topic, message_offset)) FROM rounds"
    ((decisions, decided),) = asked(lake, messages)
    assert decisions == decided
    deepest = "spawning-0" + ":branch-0" * 3  # it was open, and knows where it came from
    columns = "depth, root_topic, root_id, parent_topic, parent_id, topic, answer"
    (found,) = asked(lake, f"SELECT {columns} FROM one WHERE logical_id = '{deepest}'")  # noqa: S608
    assert found == (3, "math", "spawning-0", "coding", "spawning-0" + ":branch-0" * 2, "math", "7")
    status = json.loads(aureon("status", "--json", "--home", home, cwd=home).stdout)
    assert status["total"]["open"] == 0
    run(home)
    assert len(stored(lake)) == len(after), "there was nothing left to do"


def test_a_lake_alone_can_be_asked_verified_and_kept_small(home: Path, tmp_path: Path) -> None:
    """A copy of it, without the broker, the state folder or its key."""
    copy = tmp_path / "copy"
    for name in ("lake", "blobs"):
        if (home / name).exists():
            shutil.copytree(home / name, copy / name)
    counts = {view: asked(copy / "lake", f"SELECT count(*) FROM {view}") for view in VIEWS}  # noqa: S608
    assert counts["records"][0][0] > 15
    for command in (["verify"], ["maintain"], ["verify"], ["search", "equation"], ["audit"], REDECIDE):
        done = aureon(*command, "--home", copy, cwd=tmp_path, timeout_s=150)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert {view: asked(copy / "lake", f"SELECT count(*) FROM {view}") for view in VIEWS} == counts  # noqa: S608
    impossible = "outcome = 'impossible' AND note NOT LIKE '%it has not ended'"
    found = asked(copy / "lake", f"SELECT count(*), count_if({impossible}) FROM run('again')")  # noqa: S608
    ((rounds, spoilt),) = found
    assert rounds > 30
    assert not spoilt


def test_a_root_goes_on_with_what_it_knew(home: Path, tmp_path: Path) -> None:
    """As its notes in the lake tell."""
    if not (home / "root").exists():
        pytest.skip("there was no supervision root yet")
    lake = home / "lake"
    told = (
        "SELECT max(noted_at), max((detail->>'decided')::INT) FROM supervision WHERE kind = 'topic' AND topic = 'math'"
    )
    ((noted_at, decided),) = asked(lake, told)
    assert decided > 0
    with running("supervise", "--home", home, cwd=tmp_path) as root:
        until(lambda: asked(lake, told)[0][0] > noted_at, 60, root)
    ((_, knows),) = asked(lake, told)
    assert knows >= decided
