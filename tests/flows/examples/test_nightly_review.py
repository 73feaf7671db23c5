"""The nightly review: what would fall, and what stands when it is asked again."""

import re
from pathlib import Path
from typing import Any

import pytest

import one_lake
from one_lake.verify import verify
from tests.aureon_command import finished
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
DOUBTED = re.compile(r"prime numbers|significant digits")
"""In the questions on which one of the models differs."""


def text_of(question: Question) -> str:
    """What is asked."""
    return str(question["messages"][0]["content"])


def at_first(question: Question) -> str:
    """All agree, but on some questions for one of them: not always the same one, which would soon count for little."""
    text = text_of(question)
    differs = DOUBTED.search(text) is not None and question["model"] == "abc"[len(text) % 3]
    return "Answer: 8" if differs else "Answer: 7"


def cells(shown: str) -> list[list[str]]:
    """The rows of the tables that were printed."""
    return [[c.strip() for c in at.split("│")[1:-1]] for at in shown.splitlines() if at.startswith("│ math ")]


@pytest.mark.timeout(400)
def test_what_would_fall_is_told_and_asked_again(own_broker: Broker, tmp_path: Path) -> None:
    """And nothing else is; the lake itself stays what it was."""
    told = (*EXAMPLE, "--home", "home", "--nodes", "nodes.toml")
    own: Any = {"AUREON_BROKERS": own_broker.brokers, "AUREON_MAX_ROUNDS": "2"}
    lake = tmp_path / "home" / "lake"
    with OpenAIServer(at_first, models=("a", "b", "c")) as server:
        (tmp_path / "nodes.toml").write_text(NODES.format(url=server.url))
        lax = finished(*told, "--score-threshold", "0.1", cwd=tmp_path, timeout_s=120, **own)
        assert lax.returncode == 0, lax.stderr
        assert "0 would fall, and were asked again:" in lax.stdout
        with one_lake.connect(lake) as connection:
            below = "SELECT logical_id, payload ->> 'prompt' FROM one WHERE NOT forced AND score < 0.95 ORDER BY ALL"
            fell: dict[str, str] = dict(connection.sql(below).fetchall())
        assert len(fell) >= 3, "or else the following proves little"
        other, same, *doubted = fell
        before, asked = verify(lake).head, server.count

        agreed = {fell[other]: "Answer: 409", fell[same]: "Answer: 7"}
        at_odds = {"a": "Answer: 7", "b": "Answer: 8", "c": "Answer: 9"}
        server.answer = lambda q: next((a for text, a in agreed.items() if text in text_of(q)), at_odds[q["model"]])
        strict = finished(*told, "--score-threshold", "0.95", cwd=tmp_path, timeout_s=120, **own)
        assert strict.returncode == 0, strict.stderr
    assert verify(lake).head == before
    became = {row[1]: row[4] for row in cells(strict.stdout) if len(row) > 5}
    assert became == {other: "another answer", same: "stands", **dict.fromkeys(doubted, "in doubt")}
    asked_again = [text_of(s.body) for s in server.served[asked:]]
    assert {next(t for t in fell.values() if t in text) for text in asked_again} == {*fell.values()}


@pytest.mark.embedded
@pytest.mark.timeout(400)
def test_it_runs_with_what_is_there(tmp_path: Path) -> None:
    """It makes a lake where there is none, and where nothing was decided since, says so."""
    done = finished(*EXAMPLE, cwd=tmp_path, timeout_s=120)
    assert done.returncode == 0, done.stderr
    asked = re.search(r"^(\d+) would fall", done.stdout, re.MULTILINE)
    assert asked is not None
    assert int(asked[1]) > 0
    assert done.stdout.count("stands") == int(asked[1])
    nothing = finished(*EXAMPLE, "--since", "2999-01-01", cwd=tmp_path, timeout_s=120)
    assert nothing.returncode == 0, nothing.stderr
    assert "0 would fall, and were asked again:" in nothing.stdout
