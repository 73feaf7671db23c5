"""The examiner of `aureon demo`: it poses tasks and marks answers."""

import re

import msgspec
import pytest

from flows.commands.examiner import Examiner, Marking
from schemas.errors import OutcomeUnknownError


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
