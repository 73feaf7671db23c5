"""The cascade within a day's budget: who is asked, what it takes, and what is left for tomorrow."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import one_lake
from tests.aureon_command import aureon, finished
from tests.brokers import Broker
from tests.openai_server import OpenAIServer, Question

EXAMPLE = ("-m", "flows.examples.daily_cascade")
NODES = """
[[node]]
id = "cheap"
kind = "openai"
url = "{url}"
models = ["a", "b"]
price_in = 1.0
price_out = 2.0
max_tokens = 50

[[node]]
id = "dear"
kind = "openai"
url = "{url}"
models = ["c"]
price_in = 100.0
price_out = 200.0
max_tokens = 50
"""
TASKS, DIFFER = 50, 5
BUDGET = 100


def number_of(question: Question) -> int:
    """Which of the questions it is."""
    return int(re.findall(r"Number (\d+)", question["messages"][0]["content"])[0])


def answer(question: Question) -> str:
    """What is right, but for `b` in every fifth question."""
    number = number_of(question)
    return f"Answer: {number + (question['model'] == 'b' and number % DIFFER == 0)}"


def rows(lake_dir: Path, query: str) -> list[tuple[Any, ...]]:
    """Ask the lake."""
    with one_lake.connect(lake_dir) as lake:
        return lake.sql(query).fetchall()


def commands(shown: str) -> list[list[str]]:
    """Those that it tells to call the next day, without the name of the program."""
    told = [shlex.split(at) for at in shown.splitlines() if " --home " in at]
    return [command[min(command.index(verb) for verb in ("replay", "run") if verb in command) :] for command in told]


@pytest.mark.timeout(400)
def test_the_dear_model_is_asked_where_cheap_ones_differ_until_the_day_is_spent(
    own_broker: Broker, tmp_path: Path
) -> None:
    """By the server's own count; what is told of money is what the endpoints took, and the rest is asked tomorrow."""
    payloads = [{"prompt": f"Number {n} is which number?", "answer_kind": "number"} for n in range(1, TASKS + 1)]
    tasks = [{"topic": "sums", "logical_id": f"t{n}", "payload": p} for n, p in enumerate(payloads, 1)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(t) + "\n" for t in tasks))
    day = f"calls={BUDGET};cost=1000"
    told = (*EXAMPLE, "--questions", "questions.jsonl", "--nodes", "nodes.toml", "--home", "home", "--day", day)
    with OpenAIServer(answer, models=("a", "b", "c")) as server:
        (tmp_path / "nodes.toml").write_text(NODES.format(url=server.url))
        # one at a time: who is asked then follows from what was learned before
        own: Any = {"AUREON_BROKERS": own_broker.brokers, "AUREON_IN_FLIGHT": "1"}
        done = finished(*told, cwd=tmp_path, timeout_s=120, **own)
        assert done.returncode == 0, done.stderr
        served = list(server.served)
        lake = tmp_path / "home" / "lake"
        assert BUDGET - 2 <= len(served) <= BUDGET
        assert rows(lake, "SELECT sum(calls) FROM rounds") == [(len(served),)]

        cascades = rows(
            lake,
            "SELECT logical_id, calls FROM rounds WHERE starts_with(routing, 'cascade, 2 of 3') AND kind = 'converged'",
        )
        assert len(cascades) > 5
        spent = "SELECT logical_id FROM rounds WHERE forced"
        cut_short = {name for (name,) in rows(lake, spent)}
        for name, calls in cascades:
            if name not in cut_short:
                assert calls == (3 if int(name[1:]) % DIFFER == 0 else 2), name
        asked = {model: sum(s.body["model"] == model for s in served) for model in "abc"}
        assert rows(lake, "SELECT model, asked FROM nodes ORDER BY ALL") == sorted(asked.items())

        ((cost, left),) = rows(
            lake, "SELECT sum(cost), (SELECT count(*) FROM dead_letters WHERE reason = 'budget_spent') FROM rounds"
        )
        prices = {"a": (1, 2), "b": (1, 2), "c": (100, 200)}
        took = 0.0
        for s in served:
            tokens_in = sum(len(m["content"]) for m in s.body["messages"]) // 4 + 1
            tokens_out = len(answer(s.body)) // 4 + 1
            price_in, price_out = prices[s.body["model"]]
            took += (tokens_in * price_in + tokens_out * price_out) / 1e6
        assert cost == pytest.approx(took)
        assert f"{took:.6g}"[:6] in done.stdout
        assert left == TASKS - rows(lake, "SELECT count(*) FROM one")[0][0] > 0
        assert f"{left} are left" in done.stdout
        assert re.search(rf"dead .*this lane's share of today's budget, {BUDGET} calls, is spent", done.stdout)

        redrive, run = commands(done.stdout)
        sent = aureon(*redrive, cwd=tmp_path, **own)
        assert sent.returncode == 0, sent.stderr
        assert f"{left} dead letters redriven" in sent.stdout
        another_day = [day.replace(f"calls={BUDGET}", "calls=1000") if part == day else part for part in run]
        ran = aureon(*another_day, cwd=tmp_path, timeout_s=120, **own)
        assert ran.returncode == 0, ran.stderr
    assert rows(lake, "SELECT count(*) FROM one") == [(TASKS,)]


@pytest.mark.embedded
def test_it_runs_with_what_is_there(tmp_path: Path) -> None:
    """No endpoint, no Kafka, no key; and what is left is sent again by what it says."""
    done = finished(*EXAMPLE, cwd=tmp_path, timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"converged +│ score >= 0.85", done.stdout)
    left = re.search(r"^(\d+) are left", done.stdout, re.MULTILINE)
    assert left is not None
    sent = aureon(*commands(done.stdout)[0], cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr
    assert f"{left[1]} dead letters redriven" in sent.stdout
