"""Results to be examined, but for what a test says otherwise."""

from typing import Any

from flows.supervision import Case
from schemas.decision import RoundResult
from schemas.task import AnswerKind, PayloadView


def case(answer: str | None, kind: AnswerKind = AnswerKind.TEXT, *, score: float = 0.9, **fields: Any) -> Case:
    """A case about an answer on which two models agree."""
    result = RoundResult(answer=answer, score=score, confidence=score, agreement=1.0, evidence="cross-model")
    values: dict[str, Any] = {"result": result, "topic": "math", "logical_id": "t"}
    return Case(**values | {"view": PayloadView(prompt="6*7", answer_kind=kind)} | fields)
