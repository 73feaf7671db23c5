"""The examiner of `aureon demo`: it poses tasks and marks answers."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from flows.commands.examiner import Examiner, Marking, _score
from schemas.errors import OutcomeUnknownError, RefusedError
from tests.aureon_command import environment


def test_the_examiner_poses_and_marks() -> None:
    """A right answer, a wrong one, and one that makes no sense."""
    with Examiner(14, 0) as examiner:
        tasks = [msgspec.json.decode(task) for task in examiner.tasks()]
        assert len({task["metadata"]["family"] for task in tasks}) == 14
        equation = next(t for t in tasks if t["metadata"]["family"] == "simple_equations")
        a, b = re.findall(r"\d+", equation["payload"]["prompt"])[:2]
        answers = [str(int(b) // int(a)), "-1", "no idea"]
        assert [s >= 0.99 for s in examiner.scores([Marking(equation["metadata"], a) for a in answers])] == [
            True,
            False,
            False,
        ]


def test_an_examiner_that_dies_is_noticed() -> None:
    """Nothing waits for it for ever."""
    with Examiner(14, 0) as examiner:
        examiner.close()
        with pytest.raises(OutcomeUnknownError, match="ended before its work was done"):
            list(examiner.tasks())


def test_its_process_poses_and_marks_until_nobody_asks_any_more() -> None:
    """A verifier that stumbles over an answer has not accepted it."""
    marking = Marking({"family": "none"}, "42")
    command = [sys.executable, "-m", "flows.commands.examiner", "2", "0"]
    asked = msgspec.json.encode(marking) + b"\n"
    done = subprocess.run(command, input=asked, env=environment(), stdout=subprocess.PIPE, timeout=120, check=True)
    *tasks, score = done.stdout.splitlines()
    assert [msgspec.json.decode(task)["topic"] != "" for task in tasks] == [True, True]
    assert float(score) == 0.0


def test_answers_are_marked_once_all_tasks_are_posed() -> None:
    """Also where nobody has taken them yet."""
    with Examiner(2, 0) as examiner:
        assert examiner.scores([Marking({"family": "none"}, "42")]) == [0.0]


def test_without_the_generators_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any refusal."""
    (tmp_path / "reasoning_gym.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Examiner(2, 0) as examiner, pytest.raises(RefusedError, match="reasoning-gym"):
        list(examiner.tasks())


def test_a_verifier_that_cannot_work_is_no_wrong_answer() -> None:
    """One that stumbles over an answer has not accepted it."""

    def cannot(_metadata: object, _answer: str) -> float:
        raise RefusedError("what it needs is missing")

    def stumbles(_metadata: object, _answer: str) -> float:
        raise KeyError("a fault of the library's")

    with pytest.raises(RefusedError, match="what it needs is missing"):
        _score(cannot, Marking({}, "42"))
    assert _score(stumbles, Marking({}, "42")) == 0.0
