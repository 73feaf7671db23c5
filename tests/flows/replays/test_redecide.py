"""Past rounds decided again: by the same rules byte for byte as they were, by others exactly what these change."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import one_lake
from one_lake.encode import encode_rows, values_of
from one_lake.verify import verify
from schemas.one import RoundRow
from tests.aureon_command import ROOT, aureon, environment, is_alive, running, until
from tests.brokers import new_broker
from tests.flows.replays.past import NODES, RULES, SUPERVISION, Models, tasks, write_many
from tests.openai_server import OpenAIServer


class Past:
    """A lake of what a cell decided on answers that came over HTTP."""

    def __init__(self, home: Path, server: OpenAIServer) -> None:
        self.home = home
        self.server = server

    def replay(self, *arguments: str, **rules: str) -> dict[str, Any]:
        """Decide again; by the same rules, but for some."""
        settings: Any = {**RULES, "AUREON_SUPERVISION": str(self.home / "supervision.toml"), **rules}
        done = aureon("replay", *arguments, "--json", "--home", self.home, cwd=self.home, **settings)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def rounds(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the lake."""
        with one_lake.connect(self.home / "lake", str(self.home / "blobs")) as lake:
            return lake.sql(query).fetchall()


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """Tasks of all kinds, refined by three models of a server."""
    home = tmp_path_factory.mktemp("past")
    broker = new_broker(home / "broker")
    broker.start()
    try:
        with OpenAIServer(Models().answer, models=("a", "b", "c")) as server:
            (home / "nodes.toml").write_text(NODES.format(url=server.url))
            (home / "supervision.toml").write_text(SUPERVISION)
            settings: Any = {
                **RULES,
                "AUREON_BROKERS": broker.brokers,
                "AUREON_HOME": str(home),
                "AUREON_NODES": str(home / "nodes.toml"),
                "AUREON_SUPERVISION": str(home / "supervision.toml"),
            }
            sent = aureon("submit", "-", cwd=home, stdin=tasks(), **settings)
            assert sent.returncode == 0, sent.stderr
            ran = aureon("run", "--until-idle", "4", cwd=home, timeout_s=180, **settings)
            assert ran.returncode == 0, ran.stderr
            yield Past(home, server)
    finally:
        broker.stop()


def test_what_is_to_be_decided_again_is_of_all_kinds(past: Past) -> None:
    """Or else the tests below prove little."""
    kinds = dict(past.rounds("SELECT kind, count(*) FROM rounds GROUP BY ALL"))
    assert kinds["converged"] > 50
    assert kinds["next_round"] > 20
    assert kinds["dead"] > 3
    ((forced, verified, reasons, references, outlooks, looked_up),) = past.rounds(
        "SELECT count(*) FILTER (forced), count(*) FILTER (evidence = 'verifier'), list(DISTINCT reason) "
        "FILTER (kind = 'dead'), count(*) FILTER (starts_with(answer, '{\"$blob\"')), "
        "count(*) FILTER (contains(inputs, 'outlook')), count(*) FILTER (contains(inputs, 'accepted')) "
        "FROM stored.rounds"
    )
    assert forced > 3
    assert verified > 5
    assert {"rejected", "budget_spent"} & set(reasons)
    assert references
    assert outlooks
    assert looked_up
    assert past.rounds("SELECT count(*) FROM rounds WHERE parameters IS NOT NULL")[0][0] > 10


def test_by_the_same_rules_nothing_changes_and_no_model_is_asked(past: Past) -> None:
    """Byte for byte, counted by the server; the lake itself stays what it was."""
    before, asked = verify(past.home / "lake"), past.server.count
    told = past.replay("re-decide", "--run", "same")
    assert told["is_complete"]
    assert set(told["outcomes"]) <= {"identical", "carried"}, told
    assert told["outcomes"]["identical"] > 100
    assert told["changes"] == {}
    assert told["was"] == told["now"]
    assert past.server.count == asked
    after = verify(past.home / "lake")
    assert (after.is_sound, after.head) == (True, before.head)


def test_what_is_identical_is_the_row_byte_for_byte(past: Past) -> None:
    """Rows of `rounds` made of what a run tells of them have the hashes that the lake has."""
    past.replay("re-decide", "--run", "same")
    with one_lake.connect(past.home / "lake") as lake:
        names = [name for name in RoundRow.__struct_fields__ if name != "row_hash"]
        again = {n for (n,) in lake.execute("SELECT column_name FROM (DESCRIBE FROM run('same'))").fetchall()}
        again.remove("candidates")
        columns = ", ".join(f'a."{name}"' if name in again else f'r."{name}"' for name in names)
        rows = lake.sql(
            f"SELECT {columns}, a.original_hash FROM run('same') a JOIN stored.rounds r "  # noqa: S608
            "USING (cluster, lane, decision_offset) WHERE outcome = 'identical'"
        ).to_arrow_table()
    assert rows.num_rows > 100
    for *values, original in values_of(rows, [*names, "original_hash"]):
        line = encode_rows([RoundRow(**dict(zip(names, values, strict=True)))])
        assert hashlib.sha256(line.rstrip(b"\n")).hexdigest() == original


def test_a_stricter_policy_changes_exactly_what_it_would_not_have_accepted(past: Past) -> None:
    """What converged below the new threshold goes on, or is forced; each change is told, and no other."""
    past.replay("re-decide", "--run", "plain", AUREON_POLICY="threshold", AUREON_SCORE_THRESHOLD="0.6")
    told = past.replay("re-decide", "--run", "strict", AUREON_POLICY="threshold", AUREON_SCORE_THRESHOLD="0.96")
    expected = past.rounds(
        "SELECT topic, logical_id FROM run('plain') WHERE kind = 'converged' AND outcome <> 'not_reached' "
        "AND score < 0.96 AND score >= 0.6 AND NOT forced ORDER BY ALL"
    )
    found = past.rounds(
        "SELECT p.topic, p.logical_id FROM run('plain') p JOIN run('strict') s USING (cluster, lane, decision_offset) "
        "WHERE (p.kind, p.forced, p.answer) <> (s.kind, s.forced, s.answer) AND p.outcome <> 'not_reached' ORDER BY ALL"
    )
    assert found == expected
    assert len(found) > 5
    assert told["now"]["open"] >= told["was"]["open"]


def test_other_supervision_is_told_in_the_findings(past: Past, tmp_path: Path) -> None:
    """What it rejects is no record any more; a cap lowers the score."""
    rules = tmp_path / "supervision.toml"
    rules.write_text('[[policy]]\nuse = "runaway_length"\ncharacters = 1\naction = "reject"\n')
    told = past.replay("re-decide", "--run", "short", AUREON_SUPERVISION=str(rules))
    assert told["changes"]["converged -> dead"] + told["changes"]["converged -> next_round"] > 20
    assert told["now"]["records"] < told["was"]["records"]


def test_a_part_of_the_past_can_be_chosen(past: Past) -> None:
    """By topic, time, query, and how it ended; together they narrow down."""
    count = dict(past.rounds("SELECT topic, count(DISTINCT logical_id) FROM rounds GROUP BY ALL"))
    assert past.replay("re-decide", "--run", "t1", "--topic", "math")["tasks"] == count["math"]
    assert past.replay("re-decide", "--run", "t2", "--since", "2100-01-01")["tasks"] == 0
    everything = past.replay("re-decide", "--run", "t3", "--until", "2100-01-01")
    assert everything["tasks"] == sum(count.values())
    query = "SELECT topic, logical_id FROM one WHERE forced"
    (forced,) = past.rounds(f"SELECT count(*) FROM ({query})")  # noqa: S608
    assert past.replay("re-decide", "--run", "t4", "--select", query)["was"]["forced"] == forced[0]
    dead = past.replay("re-decide", "--run", "t5", "--dead")
    assert dead["tasks"] == dead["was"]["dead"] > 3


def test_accuracy_is_told_where_the_truth_is_known(past: Past, tmp_path: Path) -> None:
    """Answers are compared as their kind wants it."""
    truths = [json.dumps({"logical_id": f"sum-{n}", "truth": f"{2 * n}.0"}) for n in range(40)]
    (tmp_path / "truth.jsonl").write_text("\n".join(truths))
    told = past.replay("re-decide", "--run", "truth", "--topic", "math", "--truth", str(tmp_path / "truth.jsonl"))
    assert told["was"]["known"] >= 30
    assert told["now"]["right"] == told["was"]["right"] >= 20


def test_verifiers_can_be_asked_again(past: Past) -> None:
    """With another one under the same name what they refused may pass."""
    told = past.replay("re-decide", "--run", "verify", "--verify-again", "--topic", "checked")
    assert set(told["outcomes"]) == {"identical"}
    other = past.replay(
        "re-decide", "--run", "verify2", "--verify-again", "--topic", "checked",
        AUREON_VERIFIERS="tests.flows.replays.past:even",
    )  # fmt: skip
    assert other["run"] == "verify2"
    assert set(other["outcomes"]) <= {"identical", "same", "changed", "not_reached"}


def test_a_run_has_the_rules_that_it_began_with(past: Past) -> None:
    """It can be gone on with, told of and listed; not mixed up with another."""
    past.replay("re-decide", "--run", "mine", "--topic", "math")
    assert past.replay("re-decide", "--run", "mine")["tasks"] == past.replay("report", "--run", "mine")["tasks"]
    settings: Any = {**RULES, "AUREON_SUPERVISION": str(past.home / "supervision.toml")}
    refused = aureon(
        "replay", "re-decide", "--run", "mine", "--max-rounds", "7", "--home", past.home, cwd=past.home, **settings
    )
    assert (refused.returncode, "begun with another max_rounds, policy" in refused.stderr) == (2, True), refused.stderr
    listed = aureon("replay", "list", "--home", past.home, cwd=past.home)
    assert re.search(r"mine  re-decide, \d+ tasks, begun", listed.stdout)


def test_what_is_wrong_is_refused(past: Past, tmp_path: Path) -> None:
    """With the cure, and without a folder left behind."""
    for arguments, what in (
        (["report", "--run", "none"], "no run 'none'"),
        (["report"], "name the run"),
        (["re-decide", "--run", "../x"], "expected letters, digits"),
        (["re-decide", "--run", "bad", "--since", "soon"], "'soon' is no time"),
        (["re-decide", "--run", "bad", "--select", "SELECT 1"], "columns topic and logical_id"),
        (["re-decide", "--home", str(tmp_path)], "no lake at"),
    ):
        done = aureon("replay", "--home", past.home, *arguments, cwd=past.home)
        assert (done.returncode, what in done.stderr) == (2, True), done.stderr
    assert not (past.home / "lake" / "runs" / "bad").exists()


def test_what_a_decision_was_made_from_may_be_gone(past: Past, tmp_path: Path) -> None:
    """Then it is said of which, and nothing is made up."""
    home = shutil.copytree(past.home, tmp_path / "home", ignore=shutil.ignore_patterns("broker"))
    for blob in (home / "blobs" / "sha256").glob("??/*"):
        if blob.read_bytes()[:1] == b"{":  # parameters of votes
            blob.unlink()
    told = Past(home, past.server).replay("re-decide", "--run", "gone")
    assert told["outcomes"]["impossible"] > 10
    assert "is not in the blob store" in told["impossible"]


# -- asked again -------------------------------------------------------------------------------------------------------


def test_questions_are_asked_again_round_by_round(past: Past) -> None:
    """By the models that there are, with what they were told in further rounds; the lake is not touched."""
    asked = past.server.count
    before = verify(past.home / "lake").head
    told = past.replay("re-ask", "--run", "ask", "--topic", "math", AUREON_NODES=str(past.home / "nodes.toml"))
    assert told["is_complete"]
    assert set(told["outcomes"]) == {"asked"}
    assert told["now"]["records"] == told["was"]["records"]
    assert past.server.count - asked == told["now"]["calls"] >= 240
    rounds = past.rounds("SELECT round_index, count(*) FROM run('ask') GROUP BY ALL ORDER BY ALL")
    assert [index for index, _ in rounds][:2] == [0, 1]
    assert past.rounds("SELECT count(*) FROM run('ask') WHERE candidates IS NULL") == [(0,)]
    assert verify(past.home / "lake").head == before


def test_one_that_asks_and_is_killed_pays_for_no_finished_call_twice(past: Past) -> None:
    """But for those in flight at the kill, which the server has seen twice."""
    settings: Any = {
        **RULES,
        "AUREON_SUPERVISION": str(past.home / "supervision.toml"),
        "AUREON_NODES": str(past.home / "nodes.toml"),
    }
    command = ("replay", "re-ask", "--run", "paid", "--topic", "math", "--json", "--home", past.home)
    past.server.served.clear()
    past.server.latency_s = 0.05
    try:
        with running(*command, cwd=past.home, **settings) as process:
            until(lambda: sum(s.ended is not None for s in past.server.served) >= 60, 60)
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.2)
        finished = sum(s.ended is not None for s in past.server.served)
        in_flight = len(past.server.served) - finished
        again = aureon(*command, cwd=past.home, timeout_s=120, **settings)
    finally:
        past.server.latency_s = 0.0
    assert again.returncode == 0, again.stderr
    assert re.search(r"[1-9]\d* finished calls were taken from the ledger", again.stderr)
    times = Counter(json.dumps([s.model, s.body["messages"]], sort_keys=True) for s in past.server.served)
    # "sum" and "again" ask the same, so each question is there for two tasks
    assert sum(max(0, count - 2) for count in times.values()) <= in_flight + 30
    assert json.loads(again.stdout)["now"]["records"] >= 70


def test_one_that_waits_for_a_server_can_be_stopped(past: Past, tmp_path: Path) -> None:
    """A node that is away is waited for, as by a cell; the run goes on later, with another one."""
    settings: Any = {**RULES, "AUREON_SUPERVISION": str(past.home / "supervision.toml")}
    (tmp_path / "nodes.toml").write_text(NODES.format(url="http://127.0.0.1:9/v1"))
    settings["AUREON_NODES"] = str(tmp_path / "nodes.toml")
    command = ("replay", "re-ask", "--run", "away", "--topic", "algebra", "--home", past.home)
    with running(*command, cwd=past.home, **settings) as process:
        until((past.home / "lake" / "runs" / "away" / "calls.sqlite").exists, 60)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
    (tmp_path / "nodes.toml").write_text(NODES.format(url=past.server.url))
    done = aureon(*command, cwd=past.home, **settings)
    assert done.returncode == 0, done.stderr
    assert "8 asked" in done.stdout


# -- many, and what may happen to a run --------------------------------------------------------------------------------

MANY = 6000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with so many rounds that several processes decide them."""
    home = tmp_path_factory.mktemp("many")
    write_many(home / "lake", MANY)
    return home


def children(pid: int) -> list[str]:
    """The processes that a process has started."""
    found: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            found += (task / "children").read_text().split()
    return found


def told_of(home: Path, run: str) -> list[tuple[Any, ...]]:
    """All rows of a run."""
    with one_lake.connect(home / "lake") as lake:
        return lake.sql(f"SELECT * FROM run('{run}') ORDER BY lane, decision_offset").fetchall()  # noqa: S608


def killed(many: Path, run: str) -> tuple[list[str], dict[Path, int]]:
    """Kill a run when it has done a part: its workers, and when each part was written that it has left."""
    folder = many / "lake" / "runs" / run
    with running("replay", "re-decide", "--run", run, "--home", many, cwd=many) as process:
        until(lambda: any(folder.glob("part-0*.parquet")), 60)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    until(lambda: not any(map(is_alive, workers)), 60)
    return workers, {path: path.stat().st_mtime_ns for path in folder.glob("part-0*.parquet")}


def test_a_run_that_was_killed_goes_on_and_comes_to_the_same(many: Path) -> None:
    """Parts that are done are not decided again."""
    whole = aureon("replay", "re-decide", "--run", "whole", "--home", many, cwd=many)
    assert whole.returncode == 0, whole.stderr
    assert f"{MANY:,} tasks" in whole.stdout
    attempts = (f"killed-{attempt}" for attempt in range(10))
    workers, done = killed(many, run := next(attempts))
    while len(done) == 6:  # all was done before this process had seen the first part
        workers, done = killed(many, run := next(attempts))
    assert len(workers) >= 2 or os.cpu_count() == 1
    time.sleep(0.1)
    again = aureon("replay", "re-decide", "--run", run, "--home", many, cwd=many)
    assert again.returncode == 0, again.stderr
    assert f"the run {run} goes on after {len(done)} of 6 parts" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert told_of(many, run) == told_of(many, "whole")


def test_of_two_that_overlap_one_does_the_work(many: Path) -> None:
    """As a schedule may have it; the other says so, and does nothing."""
    folder = many / "lake" / "runs" / "twice"
    folder.mkdir(parents=True)
    with (folder / "run.lock").open("w") as lock:  # as the first one has it
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = aureon("replay", "re-decide", "--run", "twice", "--home", many, cwd=many)
    assert (second.returncode, "another process is at the run twice" in second.stderr) == (1, True), second.stderr
    assert [path.name for path in folder.iterdir()] == ["run.lock"]
    assert aureon("replay", "re-decide", "--run", "twice", "--home", many, cwd=many).returncode == 0


def test_it_runs_as_a_flow_of_bytewax(many: Path) -> None:
    """By itself, with what is chosen in the import string."""
    flow = "flows.replay:flow('by-itself', topics='math')"
    done = subprocess.run(
        [sys.executable, "-m", "bytewax.run", flow],
        cwd=ROOT,
        env=environment(AUREON_HOME=str(many)),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert len(told_of(many, "by-itself")) == MANY


def test_time_goes_by_in_the_lake_and_not_in_a_run(many: Path, tmp_path: Path) -> None:
    """What is decided after a run was begun is not in it."""
    home = shutil.copytree(many, tmp_path / "home", ignore=shutil.ignore_patterns("runs"))
    aureon("replay", "re-decide", "--run", "old", "--home", home, cwd=home)
    shutil.rmtree(home / "lake" / "runs" / "old", ignore_errors=False)
    aureon("replay", "re-decide", "--run", "old", "--home", home, cwd=home)
    for path in (home / "lake" / "runs" / "old").glob("part-*"):
        path.unlink()
    write_many(home / "lake", 100, first=MANY)
    done = aureon("replay", "re-decide", "--run", "old", "--json", "--home", home, cwd=home)
    assert msgspec.json.decode(done.stdout)["tasks"] == MANY
    assert len(told_of(home, "old")) == MANY
