"""The dataset that a verifier accepted: what is in it, and what is not."""

import json
import re
from pathlib import Path

import duckdb
import pytest

from tests.aureon_command import finished
from tests.brokers import Broker
from tests.openai_server import OpenAIServer, Question

EXAMPLE = ("-m", "flows.examples.verified_dataset")
NODES = """
[[node]]
id = "first"
kind = "openai"
url = "{first}"
models = ["one"]

[[node]]
id = "second"
kind = "openai"
url = "{second}"
models = ["two"]
"""
RIGHT = (12, 7, 95, 30, 41)
"""What solves the equations of the file, one each."""
NEITHER, ONLY_SECOND = 95, 7


def answering(*wrong: int) -> OpenAIServer:
    """An endpoint that solves all equations but those with these solutions."""

    def answer(question: Question) -> str:
        a, b, c = map(int, re.findall(r"(\d+)\*x \+ (\d+) = (\d+)", question["messages"][0]["content"])[0])
        x = (c - b) // a
        return f"Taking {b} from {c} and dividing by {a}:\nAnswer: {x + (x in wrong)}"

    return OpenAIServer(answer, models=("one", "two"))


def line(x: int) -> str:
    """A question of the file."""
    a, b = 3 * x + 1, x + 5
    equation = [a, b, a * x + b]
    prompt = "Which x solves {}*x + {} = {}?".format(*equation)
    payload = {"prompt": prompt, "answer_kind": "number", "verifier": "solves", "equation": equation}
    return json.dumps({"topic": "math", "logical_id": f"x{x}", "payload": payload}) + "\n"


def test_all_in_the_dataset_is_right_and_all_else_is_told(own_broker: Broker, tmp_path: Path) -> None:
    """Of two endpoints one is often wrong; the right answer is taken whoever has it, and none where nobody has."""
    (tmp_path / "questions.jsonl").write_text("".join(map(line, RIGHT)) + "\n")
    told = (*EXAMPLE, "--questions", "questions.jsonl", "--nodes", "nodes.toml", "--home", "home")
    with answering(NEITHER, ONLY_SECOND) as first, answering(NEITHER) as second:
        (tmp_path / "nodes.toml").write_text(NODES.format(first=first.url, second=second.url))
        done = finished(*told, cwd=tmp_path, timeout_s=120, AUREON_BROKERS=own_broker.brokers)
        assert done.returncode == 0, done.stderr
        asked = first.count
        again = finished(*told, cwd=tmp_path, timeout_s=120, AUREON_BROKERS=own_broker.brokers)
        assert again.returncode == 0, again.stderr
        assert first.count == asked, "what has ended is not asked again"
    rows = [json.loads(row) for row in (tmp_path / "home" / "dataset.jsonl").read_text().splitlines()]
    assert {row["logical_id"]: row["answer"] for row in rows} == {f"x{x}": f"{x}" for x in RIGHT if x != NEITHER}
    provenance = {row["logical_id"]: json.loads(row["provenance"]) for row in rows}
    assert {p["verifier"] for p in provenance.values()} == {"solves"}
    gave = {m["model"]: m["gave_it"] for m in provenance[f"x{ONLY_SECOND}"]["models"]}
    assert gave == {"one": False, "two": True}
    columns = duckdb.read_parquet(str(tmp_path / "home" / "dataset.parquet"))
    assert sorted(columns.select("question").fetchall()) == sorted((row["question"],) for row in rows)
    assert "4 accepted answers in home/dataset.jsonl" in done.stdout
    assert re.search(rf"x{NEITHER} .* not_accepted .*'solves' does not accept it.*{NEITHER + 1}", done.stdout)
    assert done.stdout.count("not_accepted") == 1


@pytest.mark.embedded
@pytest.mark.timeout(400)
def test_it_runs_with_what_is_there(tmp_path: Path) -> None:
    """No endpoint, no Kafka, no key, and the quality gate as users have it."""
    done = finished(*EXAMPLE, cwd=tmp_path, timeout_s=150, AUREON_GATE="on")
    assert done.returncode == 0, done.stderr
    assert "12 accepted answers in .aureon/verified_dataset/dataset.parquet" in done.stdout
    assert re.search(r"mistyped .* 'solves' does not accept it .*\[97\]", done.stdout)
    assert re.search(r"in-words .* nobody gave an answer", done.stdout)


@pytest.mark.embedded
def test_what_is_wrong_with_it_is_told_in_one_line(tmp_path: Path) -> None:
    """As of any command."""
    done = finished(*EXAMPLE, "--nodes", "nowhere.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "aureon: nowhere.toml: No such file or directory; AUREON_NODES names it\n"
