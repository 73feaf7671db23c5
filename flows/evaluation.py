"""Evaluation: questions with known answers through the steps of the flow, and what comes out, in figures. Pure.

    question ─► answers ─► validate ─► supervise ─► plan ─► decision, encoded and read back ─► learn

In training the truth is a verifier, `truth`: its verdicts are in the decisions, and these teach. What is measured has
no verifier, so no truth can be seen in it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from connectors.nodes.final_answer import final_answer
from connectors.nodes.signals import signals_of
from connectors.topics import RETRY, TASKS
from flows.affinity import Affinities
from flows.comparing.equivalence import comparison_for, group, number
from flows.items import Answered, Rejected, Routed
from flows.lane import Message, Sealer
from flows.policies import SimpleThresholdPolicy
from flows.settings import Settings
from flows.steps.intake import Reading, classify
from flows.steps.plan import Limits, Planner
from flows.steps.supervise import Supervision
from flows.steps.validate import Verifier, validate
from flows.supervision import built_in_supervisor
from schemas.decision import Decision, DecisionKind, read_decision
from schemas.errors import UNREADABLE, BadRecordError
from schemas.node import Answer
from schemas.task import AnswerKind, PayloadView, Topic, read_payload

TRUTH = "truth"
CONFIDENT = 0.95
BINS = 15
READING = Reading(0, 1, Sealer(bytes(32)), 1 << 25, RETRY, 0.0)
"""Nothing is sealed here that anybody would read."""
_MARK = re.compile(r"####|\bA:")
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*|-?\.\d+", re.ASCII)


_Value = str | float | int | bool | None


class Line(Struct, frozen=True, kw_only=True):
    """One line of a file of questions."""

    question: str | None = None
    prompt: str | None = None
    payload: dict[str, Any] | None = None
    truth: _Value = None
    answer: _Value = None
    """The truth, by another name."""
    topic: Topic = "eval"
    logical_id: Annotated[str, Meta(min_length=1)] | None = None
    answer_kind: AnswerKind | None = None
    responses: dict[str, _Value] | None = None
    """What each model once said, by its name; null where it said nothing."""


class Question(Struct, frozen=True, kw_only=True):
    """A question with its true answer, and what models said to it."""

    logical_id: str
    topic: str
    payload: bytes
    view: PayloadView
    truth: str
    said: Mapping[str, str] = {}
    answers: tuple[Answer, ...] = ()

    def is_right(self, answer: str | None) -> bool:
        """Tell whether an answer says the same as the truth."""
        return answer is not None and group(self.view.answer_kind, [self.truth, answer], comparison_for(self.view)) == [
            0,
            0,
        ]


class Measured(Struct, frozen=True, kw_only=True):
    """One question, answered by the ensemble."""

    question: Question
    decision: Decision
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    @property
    def is_right(self) -> bool:
        """The decision's answer is the truth."""
        result = self.decision.result
        return result is not None and self.question.is_right(result.answer)

    @property
    def confidence(self) -> float:
        """That of the decision, 0 to 1."""
        return self.decision.result.confidence if self.decision.result is not None else 0.0


class Bin(Struct, frozen=True, kw_only=True):
    """Answers of like confidence, or of like agreement."""

    low: float
    answers: float
    confidence: float
    """Mean."""
    accuracy: float


class Fared(Struct, frozen=True, kw_only=True):
    """One model by itself, of all questions measured: shares, and means by question."""

    model: str
    """`node/model`; its name alone where answers were recorded."""
    accuracy: float
    """Its answer read as in `Figures.best_single`."""
    reread: float
    """Its answer read as Aureon reads it."""
    answered: float
    tokens: float
    cost: float


class Figures(Struct, frozen=True, kw_only=True):
    """What a measurement came to; shares are 0 to 1."""

    questions: int
    accuracy: float
    best_single: float
    """Of the best model by itself, chosen on the same questions, its answer read as in a list of recorded answers: a
    number is what follows the last `####` or `A:`, or the last one there is."""
    best_single_model: str
    best_single_reread: float
    """Of the best model by itself, its answer read as Aureon reads it."""
    plurality: float
    """Of the answer that most models give; of equals, the first that was given."""
    ece: float
    """Expected calibration error: the mean distance of confidence and accuracy, over 15 bins of equal width."""
    confident_share: float
    """Answers with a confidence of .95 or more."""
    confident_accuracy: float
    false_convergence: float
    """Wrong ones among what converged without being forced."""
    converged_unforced: float
    effective_votes: float
    """Mean: how many independent models would tell as much as those that gave the leading answer."""
    ceiling: float
    """Questions to which at least one model knew the answer."""
    calls: float
    """By question, as are tokens and cost."""
    tokens: float
    cost: float
    models: tuple[Fared, ...]
    """The best first."""
    reliability: tuple[Bin, ...]
    agreement: tuple[Bin, ...]
    """By the number of models that gave the leading answer."""


def read_line(line: bytes, number_of_line: int) -> Question:
    """Read one line of a file of questions.

    Raises:
        BadRecordError: it is none; says what was expected and where.
    """
    try:
        read = msgspec.json.decode(line, type=Line)
    except UNREADABLE as error:
        raise BadRecordError(str(error)) from None
    truth = read.truth if read.truth is not None else read.answer
    if not _text(truth).strip():
        raise BadRecordError("needs `truth`, the known answer - at `$.truth`")
    prompt = read.question if read.question is not None else read.prompt
    payload = dict(read.payload or {})
    if prompt is not None:
        payload["prompt"] = prompt
    kind = read.answer_kind or (AnswerKind.NUMBER if number(_text(truth)) is not None else AnswerKind.TEXT)
    payload.setdefault("answer_kind", kind.value)
    payload.pop("verifier", None)
    encoded = msgspec.json.encode(payload)
    view = read_payload(encoded)
    question = Question(
        logical_id=read.logical_id or f"line-{number_of_line}",
        topic=read.topic,
        payload=encoded,
        view=view,
        truth=_text(truth),
        said={model: _text(said) for model, said in (read.responses or {}).items()},
    )
    refused = message_of(question, number_of_line, 0.0).body
    if isinstance(refused, Rejected):
        raise BadRecordError(refused.error.partition(": ")[2])
    answers = tuple([answer_of(model, model, view.answer_kind, text) for model, text in question.said.items()])
    return msgspec.structs.replace(question, answers=answers)


def _text(said: _Value) -> str:
    """Write a value as JSON does, which may stand where a text is expected."""
    return said if isinstance(said, str) else "" if said is None else msgspec.json.encode(said).decode()


def answer_of(node: str, model: str, kind: AnswerKind, text: str) -> Answer:
    """Make of what a model once said the answer that its node would have given."""
    found = final_answer(kind, text)
    return Answer(
        node=node, model=model, status="ok" if found else "abstained", text=found, signals=signals_of(kind, text)
    )


class Trial:
    """An ensemble that learns from some questions, and is measured on others.

    Args:
        settings: of the policy.
    """

    def __init__(self, settings: Settings) -> None:
        self.affinities = Affinities()
        self._planner = Planner(SimpleThresholdPolicy(settings), Limits(1, 1, 0, 0, max_rounds=1))
        self._supervision = Supervision(built_in_supervisor(), 1)
        self._offset = 0

    def learn(self, questions: Iterable[Question]) -> None:
        """Learn from questions whose truth is told."""
        for question in questions:
            view = msgspec.structs.replace(question.view, verifier=TRUTH)
            decision = self._decide(question, view, {TRUTH: _verifier_of(question)})
            self.affinities.learn(0, [(self._offset, decision)])
        self.affinities.renew(float(self._offset))

    def measure(self, questions: Iterable[Question]) -> list[Measured]:
        """Answer questions, and learn nothing from them."""
        measured = []
        for question in questions:
            decision = self._decide(question, question.view, {})
            measured.append(
                Measured(
                    question=question,
                    decision=decision,
                    calls=sum(a.tries for a in question.answers),
                    tokens=sum(a.tokens_in + a.tokens_out for a in question.answers),
                    cost=sum(a.cost for a in question.answers),
                )
            )
        return measured

    def _decide(self, question: Question, view: PayloadView, verifiers: Mapping[str, Verifier]) -> Decision:
        """Send one question through the steps."""
        self._offset += 1
        now = float(self._offset)
        known = self.affinities.votes(question.topic, now)
        answered = Answered(Routed(message_of(question, self._offset, now), now, ()), question.answers)
        result = validate(view, question.answers, verifiers, known)
        return read_decision(self._planner.plan(0, self._supervision.supervise(answered, result), now))


def _verifier_of(question: Question) -> Verifier:
    return lambda _view, text: question.is_right(text)


def message_of(question: Question, offset: int, now: float) -> Message:
    """Put a question as a task on Kafka would be."""
    task = {
        "topic": question.topic,
        "logical_id": question.logical_id,
        "payload": msgspec.Raw(question.payload),
    }
    return classify(READING, TASKS, offset, msgspec.json.encode(task), now)


# -- figures -------------------------------------------------------------------------------------------------------


def figures_of(measured: Sequence[Measured]) -> Figures:
    """Tell what a measurement came to; at least one question."""
    n = len(measured)
    rights = [m.is_right for m in measured]
    confident = [right for m, right in zip(measured, rights, strict=True) if m.confidence >= CONFIDENT]
    unforced = [
        right
        for m, right in zip(measured, rights, strict=True)
        if m.decision.kind is DecisionKind.CONVERGED and not m.decision.forced
    ]
    models = _by_model(measured)
    return Figures(
        questions=n,
        accuracy=sum(rights) / n,
        best_single=models[0].accuracy if models else 0.0,
        best_single_model=models[0].model if models else "",
        best_single_reread=max((model.reread for model in models), default=0.0),
        plurality=sum(m.question.is_right(_plurality(m)) for m in measured) / n,
        ece=_ece(measured, rights),
        confident_share=len(confident) / n,
        confident_accuracy=sum(confident) / len(confident) if confident else 0.0,
        false_convergence=unforced.count(False) / len(unforced) if unforced else 0.0,
        converged_unforced=len(unforced) / n,
        effective_votes=sum(m.decision.result.effective_votes for m in measured if m.decision.result) / n,
        ceiling=sum(any(m.question.is_right(a.text) for a in _answers(m)) for m in measured) / n,
        calls=sum(m.calls for m in measured) / n,
        tokens=sum(m.tokens for m in measured) / n,
        cost=sum(m.cost for m in measured) / n,
        models=models,
        reliability=_bins(measured, rights, [min(int(m.confidence * BINS), BINS - 1) / BINS for m in measured]),
        agreement=_bins(measured, rights, [float(_votes(m)) for m in measured]),
    )


def mean_of(every: Sequence[Figures]) -> Figures:
    """Average the figures of several measurements."""
    numbers = {
        f: sum(getattr(each, f) for each in every) / len(every)
        for f in Figures.__struct_fields__
        if isinstance(getattr(every[0], f), float)
    }
    best = Counter([each.best_single_model for each in every])
    return msgspec.structs.replace(
        every[0],
        **numbers,
        best_single_model=best.most_common(1)[0][0],
        models=_averaged([each.models for each in every]),
        reliability=_pooled([each.reliability for each in every]),
        agreement=_pooled([each.agreement for each in every]),
    )


def plain_answer(kind: AnswerKind, text: str) -> str:
    """Read an answer as lists of recorded answers do: after the last mark, or else the last number there is."""
    if kind is not AnswerKind.NUMBER:
        return final_answer(kind, text)
    marks = list(_MARK.finditer(text))
    found = _NUMBER.search(text, marks[-1].end()) if marks else None
    every = [found[0]] if found is not None else _NUMBER.findall(text)
    return every[-1].rstrip(".").replace(",", "") if every else ""


def _by_model(measured: Sequence[Measured]) -> tuple[Fared, ...]:
    """Tell how each model fared by itself, the best first."""
    plain, reread, given, tokens = (Counter[str]() for _ in range(4))
    money: dict[str, float] = {}
    for m in measured:
        kind = m.question.view.answer_kind
        for answer in _answers(m):
            name = answer.model if answer.node == answer.model else f"{answer.node}/{answer.model}"
            said = m.question.said.get(answer.model) if m.question.said else None
            reads = plain_answer(kind, said) if said is not None else answer.text
            plain[name] += m.question.is_right(reads)
            reread[name] += answer.status == "ok" and m.question.is_right(answer.text)
            given[name] += answer.status == "ok"
            tokens[name] += answer.tokens_in + answer.tokens_out
            money[name] = money.get(name, 0.0) + answer.cost
    n = len(measured)
    fared = [
        Fared(
            model=name,
            accuracy=plain[name] / n,
            reread=reread[name] / n,
            answered=given[name] / n,
            tokens=tokens[name] / n,
            cost=money[name] / n,
        )
        for name in plain
    ]
    return tuple(sorted(fared, key=lambda model: -model.accuracy))


def _averaged(every: Sequence[tuple[Fared, ...]]) -> tuple[Fared, ...]:
    """Average how models fared in several measurements; one that was in none of the questions of one had none right."""
    numbers = [f for f in Fared.__struct_fields__ if f != "model"]
    names = dict.fromkeys(fared.model for models in every for fared in models)
    averaged = []
    for name in names:
        of = [fared for models in every for fared in models if fared.model == name]
        means = {f: round(sum(getattr(fared, f) for fared in of) / len(every), 6) for f in numbers}
        averaged.append(Fared(model=name, **means))
    return tuple(sorted(averaged, key=lambda model: -model.accuracy))


def _answers(measured: Measured) -> Sequence[Answer]:
    result = measured.decision.result
    return result.candidates if result is not None else ()


def _plurality(measured: Measured) -> str | None:
    texts = [a.text for a in _answers(measured) if a.status == "ok"]
    if not texts:
        return None
    groups = group(measured.question.view.answer_kind, texts)
    most = max(set(groups), key=lambda g: (groups.count(g), -g))
    return texts[groups.index(most)]


def _votes(measured: Measured) -> int:
    result = measured.decision.result
    return len(result.leading) if result is not None else 0


def _ece(measured: Sequence[Measured], rights: Sequence[bool]) -> float:
    bins = _bins(measured, rights, [min(int(m.confidence * BINS), BINS - 1) / BINS for m in measured])
    return sum(b.answers * abs(b.confidence - b.accuracy) for b in bins) / len(measured)


def _bins(measured: Sequence[Measured], rights: Sequence[bool], lows: Sequence[float]) -> tuple[Bin, ...]:
    found = []
    for low in sorted(set(lows)):
        of = [(m.confidence, right) for m, right, where in zip(measured, rights, lows, strict=True) if where == low]
        found.append(
            Bin(
                low=low,
                answers=len(of),
                confidence=sum(c for c, _ in of) / len(of),
                accuracy=sum(right for _, right in of) / len(of),
            )
        )
    return tuple(found)


def _pooled(every: Sequence[tuple[Bin, ...]]) -> tuple[Bin, ...]:
    pooled = []
    for low in sorted({b.low for bins in every for b in bins}):
        of = [b for bins in every for b in bins if b.low == low]
        answers = sum(b.answers for b in of)
        pooled.append(
            Bin(
                low=low,
                answers=answers / len(every),
                confidence=sum(b.confidence * b.answers for b in of) / answers,
                accuracy=sum(b.accuracy * b.answers for b in of) / answers,
            )
        )
    return tuple(pooled)
