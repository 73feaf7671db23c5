"""The nightly review: what would fall, and what stands when it is asked again."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import one_lake
from one_lake.verify import verify
from tests.aureon_command import aureon, finished
from tests.brokers import Broker
from tests.openai_server import OpenAIServer, Question

EXAMPLE = ("-m", "flows.examples.nightly_review")
NODES = """
[[node]]
id = "endpoint"
kind = "openai"
url = "{url}"
models = ["a", "b", "c"]
"""
SURE = ("sure-1", "sure-2", "sure-3")
OTHER, SAME, DOUBTED = "other", "same", ("doubted-1", "doubted-2")
"""What is not sure at first, by what becomes of it. Each is a topic of its own, of which nothing is known yet."""


def topic_of(question: Question) -> str:
    """What is asked about."""
    return str(re.findall(r"about ([\w-]+)\?", question["messages"][0]["content"])[0])


def at_first(question: Question) -> str:
    """All agree, but on what is not sure for one of them."""
    return "Answer: 8" if topic_of(question) not in SURE and question["model"] == "c" else "Answer: 7"


def later(question: Question) -> str:
    """They agree on two of these, on one of them with another answer, and each says something else of the others."""
    at_odds = {"a": "Answer: 7", "b": "Answer: 8", "c": "Answer: 9"}[question["model"]]
    return {OTHER: "Answer: 409", SAME: "Answer: 7"}.get(topic_of(question), at_odds)


@pytest.mark.timeout(400)
def test_what_would_fall_is_told_and_asked_again(own_broker: Broker, tmp_path: Path) -> None:
    """And nothing else is; the lake itself stays what it was."""
    own: Any = {"AUREON_BROKERS": own_broker.brokers, "AUREON_MAX_ROUNDS": "2"}
    lake = tmp_path / "home" / "lake"
    questions = {t: {"prompt": f"What about {t}?", "answer_kind": "number"} for t in (*SURE, OTHER, SAME, *DOUBTED)}
    lines = "".join(json.dumps({"topic": t, "logical_id": t, "payload": p}) + "\n" for t, p in questions.items())
    lax = ("--home", "home", "--nodes", "nodes.toml", "--score-threshold", "0.5", "--until-idle", "2")
    strict = ("--home", "home", "--nodes", "nodes.toml", "--score-threshold", "0.95")
    with OpenAIServer(at_first, models=("a", "b", "c")) as server:
        (tmp_path / "nodes.toml").write_text(NODES.format(url=server.url))
        assert aureon("submit", "-", "--home", "home", cwd=tmp_path, stdin=lines, **own).returncode == 0
        ran = aureon("run", *lax, cwd=tmp_path, timeout_s=120, **own)
        assert ran.returncode == 0, ran.stderr
        with one_lake.connect(lake) as connection:
            assert connection.sql("SELECT count(*) FROM one WHERE NOT forced").fetchall() == [(len(questions),)]
        before, asked = verify(lake).head, server.count

        server.answer = later
        done = finished(*EXAMPLE, *strict, cwd=tmp_path, timeout_s=120, **own)
        assert done.returncode == 0, done.stderr
    assert verify(lake).head == before
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    would_be = [(row[0], row[2]) for row in rows if len(row) == 5 and row[1] == "converged"]
    fell = {OTHER, SAME, *DOUBTED}
    assert sorted(would_be) == sorted([*((t, "converged") for t in SURE), *((t, "next_round") for t in fell)])
    became = {row[1]: row[4] for row in rows if len(row) == 7 and row[1] in questions}
    assert became == {OTHER: "another answer", SAME: "stands", **dict.fromkeys(DOUBTED, "in doubt")}
    assert {topic_of(s.body) for s in server.served[asked:]} == fell


@pytest.mark.embedded
@pytest.mark.timeout(400)
def test_it_runs_with_what_is_there(tmp_path: Path) -> None:
    """It makes a lake where there is none, and where nothing was decided since, says so."""
    done = finished(*EXAMPLE, cwd=tmp_path, timeout_s=120)
    assert done.returncode == 0, done.stderr
    asked = re.search(r"^(\d+) would fall", done.stdout, re.MULTILINE)
    assert asked is not None
    assert done.stdout.count("stands") == int(asked[1]), "which depends on how much was learned in between"
    assert re.search(r"math +│ converged +│ converged", done.stdout)
    nothing = finished(*EXAMPLE, "--since", "2999-01-01", cwd=tmp_path, timeout_s=120)
    assert nothing.returncode == 0, nothing.stderr
    assert "0 would fall, and were asked again:" in nothing.stdout
