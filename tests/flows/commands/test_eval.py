"""`aureon eval`: figures that can be computed by hand, and no truth in what is measured."""

import json
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from flows import cli
from flows.commands import eval_ask
from flows.evaluation import plain_answer
from flows.items import Answered, Routed
from flows.lane import Message
from schemas.node import Answer
from schemas.task import AnswerKind
from tests.openai_server import OpenAIServer

REASONS = "We read the question with care, and write down first what it tells us before anything is calculated. "


def said(number: int, *, miscounts: bool = False) -> str:
    """What a model says that finds a number: with a sum, right or wrong, and the number marked."""
    total = number + 1 if miscounts else number
    return f"{REASONS}So there are {total - 7} + 7 = {number} in all.\nA: {number}"


def questions(count: int, rights: dict[str, float], seed: int = 1) -> list[dict[str, Any]]:
    """Questions whose models are right so often, and miscalculate where they are not."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        truth = 100 + i
        responses = {}
        for model, right in rights.items():
            is_right = rng.random() < right
            number = truth if is_right else rng.randrange(1000, 9999)
            responses[model] = said(number, miscounts=not is_right and rng.random() < 0.5)
        rows.append({"question": f"How many, number {i}?", "truth": str(truth), "responses": responses})
    return rows


def write(path: Path, rows: list[Any]) -> Path:
    """A file of questions."""
    path.write_text("".join(json.dumps(row) + "\n" if not isinstance(row, str) else row + "\n" for row in rows))
    return path


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """Run the command in this process; gives its JSON."""
    capsys.readouterr()
    assert cli.main(["eval", "--json", *map(str, arguments)]) == code
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    found: dict[str, Any] = json.loads(printed)
    return found


def test_figures_are_those_that_one_computes_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four questions: the best model knows three, most say the right thing in two, one is known to nobody."""
    rows = [
        {"question": "a", "truth": 1, "responses": {"x": "A: 1", "y": "A: 1", "z": "A: 1"}},
        {"question": "b", "truth": 2, "responses": {"x": "A: 2", "y": "A: 5", "z": "A: 5"}},
        {"question": "c", "truth": 3, "responses": {"x": "A: 3", "y": "A: 3", "z": "nobody knows"}},
        {"question": "d", "truth": 4, "responses": {"x": "A: 7", "y": "A: 8", "z": "A: 9"}},
    ]
    training = write(tmp_path / "training.jsonl", rows * 2)
    found = evaluate(capsys, write(tmp_path / "q.jsonl", rows), "--train", training)
    assert found["questions"] == 4
    assert found["best_single"] == 0.75
    assert found["best_single_model"] == "x"
    assert found["plurality"] == 0.5
    assert found["ceiling"] == 0.75
    assert found["calls"] == 3.0
    assert found["splits"] == 1
    assert found["trained_on"] == 8
    assert sum(b["answers"] for b in found["reliability"]) == 4
    by_hand = sum(b["answers"] * abs(b["confidence"] - b["accuracy"]) for b in found["reliability"]) / 4
    assert found["ece"] == pytest.approx(by_hand, abs=1e-6)


def test_over_random_halves_the_ensemble_beats_its_best_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where models err independently and show it; the same seed gives the same bytes."""
    rights = {"a": 0.8, "b": 0.75, "c": 0.7, "d": 0.3}
    file = write(tmp_path / "q.jsonl", questions(300, rights))
    found = evaluate(capsys, file, "--splits", "5")
    assert found["splits"] == 5
    assert found["gap_mean"] > 0.05
    assert found["gap_worst"] > 0.0
    assert found["ece"] < 0.06
    assert found["confident_accuracy"] > 0.95
    assert found["accuracy"] <= found["ceiling"]
    assert evaluate(capsys, file, "--splits", "5") == found
    assert evaluate(capsys, file, "--splits", "5", "--seed", "7") != found


def test_the_truth_of_what_is_measured_is_not_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other truths change what is right, and nothing that is said of it."""
    training = write(tmp_path / "training.jsonl", questions(120, {"a": 0.8, "b": 0.6, "c": 0.5}))
    measured = questions(60, {"a": 0.8, "b": 0.6, "c": 0.5}, seed=2)
    lying = [row | {"truth": "-5"} for row in measured]
    honest = evaluate(capsys, write(tmp_path / "q.jsonl", measured), "--train", training)
    lied = evaluate(capsys, write(tmp_path / "l.jsonl", lying), "--train", training)
    assert lied["accuracy"] == 0.0
    assert [b["confidence"] for b in lied["reliability"]] == [b["confidence"] for b in honest["reliability"]]
    assert lied["effective_votes"] == honest["effective_votes"]


def test_values_need_not_be_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers, as exact as they stand, true and false; and null where a model said nothing."""
    large = 2**64 + 1
    rows = [
        {"question": "a", "truth": large, "responses": {"x": large, "y": large - 1, "z": None}},
        {"question": "b", "truth": True, "responses": {"x": True, "y": "false", "z": None}},
    ]
    found = evaluate(capsys, write(tmp_path / "q.jsonl", rows * 4), "--train", write(tmp_path / "t.jsonl", rows * 8))
    assert found["best_single_model"] == "x"
    assert found["best_single_reread"] == found["accuracy"] == 1.0


def test_bad_lines_are_told_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By their number; the exit code says that there were some."""
    bad = ["nonsense", {"question": "?"}, {"truth": "1"}, {"question": "?", "truth": "1", "answer_kind": "colour"}]
    bad.append({"question": "?", "truth": "1", "logical_id": "a:r1"})
    rows = questions(20, {"a": 0.9, "b": 0.5})
    file = write(tmp_path / "q.jsonl", [*rows[:10], *bad, "", *rows[10:]])
    assert cli.main(["eval", "--splits", "2", str(file)]) == 1
    printed = capsys.readouterr()
    assert "10 questions measured, 10 learned from (2 random halves, means)" in printed.out
    told = printed.err.splitlines()
    assert f"{file}:11: JSON is malformed" in told[0]
    assert f"{file}:12: needs `truth`, the known answer - at `$.truth`" in told[1]
    assert f"{file}:13: empty: needs `prompt`" in told[2]
    assert f"{file}:14: Invalid enum value 'colour' - at `$.answer_kind`" in told[3]
    assert f"{file}:15: 'a:r1' ends in `:r<n>`" in told[4]


@pytest.mark.parametrize(
    "rows, said",
    [
        ([], "it is empty"),
        (["nonsense"], "no line of it is a question with a known answer"),
        ([{"question": "?", "truth": "1", "responses": {"a": "1"}}], "1 question is too few"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Any], said: str
) -> None:
    """And what a line has to be is said."""
    assert cli.main(["eval", str(write(tmp_path / "q.jsonl", rows))]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name."""
    assert cli.main(["eval", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: No such file or directory" in capsys.readouterr().err


def test_the_picture_is_svg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a disc for each bin, and nothing of the file's own text, which nobody has looked at."""
    rows = [row | {"topic": "<script>"} for row in questions(40, {"<b>": 0.9, "b": 0.5})]
    picture = tmp_path / "p.svg"
    found = evaluate(capsys, write(tmp_path / "q.jsonl", rows), "--picture", picture, "--splits", "2")
    root = ET.fromstring(picture.read_text())  # noqa: S314 - written here
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == len(found["reliability"])
    assert "script" not in picture.read_text()


def test_where_nothing_is_recorded_the_models_are_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over HTTP, each once; one that is down gives no answer, and that is said."""
    rows = [{"question": f"What is {i} + 1?", "truth": str(i + 1)} for i in range(12)]

    def answer(request: dict[str, Any]) -> str:
        number = int(request["messages"][-1]["content"].split()[2])
        return f"#### {number + 1}" if request["model"] == "good" or number % 3 else "#### 0"

    nodes = tmp_path / "nodes.toml"
    with OpenAIServer(answer) as server:
        down = '[[node]]\nid = "away"\nkind = "openai"\nurl = "http://127.0.0.1:9/v1"\nmodels = ["none"]\n'
        nodes.write_text(
            f'[[node]]\nid = "here"\nkind = "openai"\nurl = "{server.url}"\nmodels = ["good", "bad"]\n{down}'
        )
        file = write(tmp_path / "q.jsonl", rows)
        found = evaluate(capsys, file, "--splits", "2", "--nodes", nodes, "--call-tries", "1")
        assert len(server.served) == 24
    assert found["best_single_model"] == "here/good"
    assert found["best_single"] == 1.0
    assert 2.0 < found["calls"] <= 3.0  # the circuit breaker of the one that is down opens
    assert found["tokens"] > 0
    first, second, third = found["models"]
    assert [m["model"] for m in (first, second, third)] == ["here/good", "here/bad", "away/none"]
    assert (first["accuracy"], first["answered"]) == (1.0, 1.0)
    assert (third["accuracy"], third["answered"], third["tokens"]) == (0.0, 0.0, 0.0)
    assert 0 < first["tokens"] <= found["tokens"] / 2
    assert second["accuracy"] == pytest.approx(8 / 12, abs=0.2)


@pytest.mark.parametrize(
    "text, number",
    [
        ("It is 5 then.\n#### 1,200", "1200"),
        ("A: $18.", "18"),
        ("So 16 hours for 480 miles.", "480"),
        ("no number", ""),
        ("A: none, but 3 of 4", "3"),
    ],
)
def test_lists_of_recorded_answers_are_read_plainly(text: str, number: str) -> None:
    """What follows the last mark, or the last number there is."""
    assert plain_answer(AnswerKind.NUMBER, text) == number


def test_questions_of_which_something_is_recorded_are_not_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all models fail there is no answer; how far it is, is told now and then."""
    monkeypatch.setattr(eval_ask, "TELL_EVERY_S", 0.0)
    rows = [*questions(6, {"a": 0.9, "b": 0.5}), *({"question": f"What is {i}?", "truth": str(i)} for i in range(3))]
    nodes = tmp_path / "nodes.toml"
    nodes.write_text('[[node]]\nid = "away"\nkind = "openai"\nurl = "http://127.0.0.1:9/v1"\nmodels = ["none"]\n')
    file = write(tmp_path / "q.jsonl", rows)
    assert cli.main(["eval", "--splits", "2", "--nodes", str(nodes), "--call-tries", "1", str(file)]) == 0
    told = capsys.readouterr().err
    assert "of 3 questions answered" in told
    assert "away/none: 3 of 3 calls failed; the last one: " in told


def test_a_question_on_a_topic_that_no_model_serves_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its id, with the cure."""
    nodes = tmp_path / "nodes.toml"
    nodes.write_text('[[node]]\nid = "one"\nkind = "solver"\nmodels = ["numeric"]\ntopics = ["math"]\n')
    file = write(tmp_path / "q.jsonl", [{"logical_id": "x", "topic": "law", "question": "?", "truth": "1"}] * 4)
    assert cli.main(["eval", "--splits", "2", "--nodes", str(nodes), str(file)]) == 2
    assert "question 'x': " in (told := capsys.readouterr().err)
    assert "`topic` names another" in told


def test_calls_that_fail_are_told_in_a_line_for_each_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever waits for an evaluation learns why a model has no answers."""
    message = Message(kafka_topic="t", offset=0, task_id="sum-1:r0")
    good = Answer(node="n", model="a", text="42")
    bad = [Answer(node="n", model="b", status="failed", error=error) for error in ("no connection", "timed\nout")]
    every = [Answered(Routed(message, 0.0, ()), (good, *failed)) for failed in (bad[:1], bad[1:], ())]
    eval_ask._tell_failed(every)
    assert capsys.readouterr().err == "n/b: 2 of 2 calls failed; the last one: timed out\n"
