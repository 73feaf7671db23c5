"""What an answer looks like, and its scores."""

import math
import time

import msgspec
import pytest

from flows.supervision.form import AllowList, AnswerFormat, EmptyAnswer, Repetition, RunawayLength, ScoreSanity
from schemas.node import Answer
from schemas.task import AnswerKind
from tests.flows.supervision.cases import case

NUMBER, CHOICE, EXPRESSION = AnswerKind.NUMBER, AnswerKind.CHOICE, AnswerKind.EXPRESSION
PROSE = (
    "The train leaves at noon and travels for three hours. Meanwhile a second one starts from the other town, which "
    "is two hundred miles away; they meet where the sum of what both have travelled is that distance. So we write "
    "down an equation, solve it for the time, and find that they meet after an hour and a half."
)


def test_the_allow_list_accepts_what_is_on_it_and_nothing_else() -> None:
    """Whatever the case."""
    policy = AllowList(answers=("N/A", "unknown"))
    found = policy.examine(case(" n/a "))
    assert found is not None
    assert (found.action, found.evidence) == ("accept", " n/a ")
    assert AllowList(answers=(" N/A ",)).examine(case("n/a")) is not None
    assert policy.examine(case("not unknown")) is None


def test_an_empty_answer_is_rejected_and_a_short_one_is_not() -> None:
    """Blanks are nothing."""
    policy = EmptyAnswer()
    for answer in ("", " \n\t"):
        found = policy.examine(case(answer))
        assert found is not None
        assert found.action == "reject"
    assert policy.examine(case("0")) is None


@pytest.mark.unmeasured
def test_a_megabyte_is_rejected_and_a_long_text_is_not() -> None:
    """At once; and its evidence is short."""
    policy, megabyte = RunawayLength(), "x" * (1 << 20)
    begun = time.process_time()
    found = policy.examine(case(megabyte))
    assert time.process_time() - begun < 0.01
    assert found is not None
    assert (found.action, found.reason[:34]) == ("reject", "runaway length: 1,048,576 characte")
    assert len(found.evidence) <= 200
    assert policy.examine(case("x" * 100_000)) is None
    assert policy.examine(case("x" * 100_001)) is not None
    short = RunawayLength(characters=10)
    assert short.examine(case("x" * 11)) == short.finding("runaway length: 11 characters; 10 are allowed", "x" * 11)
    assert short.examine(case("x" * 10)) is None


@pytest.mark.parametrize(
    "answer",
    [
        "I am not sure about that at all. " * 12,
        "Let me think.\n" * 30,
        PROSE + " Wait, that is wrong. " + "and then and then " * 600,
        "ab" * 3000,
    ],
)
def test_a_model_that_does_not_get_away_from_a_phrase_is_noticed(answer: str) -> None:
    """Whether it is a sentence, a line, a phrase, or no word at all."""
    found = Repetition().examine(case(answer))
    assert found is not None
    assert found.action == "more_reasoning"


# 20 letters and a stop; lines of 8 signs; words that differ all from each other
_SENTENCE = "It is not so at all."
_LINES = [f"row {i:04}" for i in range(2000)]


@pytest.mark.parametrize(
    "answer,reason",
    [
        (" ".join([_SENTENCE] * 5), "the same sentence 5 times"),
        (" ".join([_SENTENCE] * 4), ""),
        ("\n".join(["abcdefgh"] * 5), "the same sentence 5 times"),
        ("\n".join(["abcdefg"] * 5), ""),
        # of a text of 80 signs, five pieces of 8 are half, and of one of 81 they are not
        ("\n".join([*["abcdefgh"] * 5, "x" * 17, "y" * 17]), "the same sentence 5 times"),
        ("\n".join([*["abcdefgh"] * 5, "x" * 17, "y" * 18]), ""),
        # the beginning of a long text is not looked at
        ("\n".join(["abcdefgh"] * 900) + "\n" + "\n".join(_LINES)[:8_000], ""),
        ("\n".join(_LINES) + "\n" + "\n".join(["abcdefgh"] * 900), "the same sentence"),
        ("ab" * 499 + "a", ""),
        ("\n".join(f"{'-' * 60}{i:03}" for i in range(300)), "the same phrase over and over"),
        ("\n".join(f"{'-' * 25}{i:03}" for i in range(300)), ""),
        ("ab" * 500, "the same phrase over and over"),
        ("\ud800" + "ab" * 600, "the same phrase over and over"),
    ],
)
def test_a_repetition_is_one_from_its_bounds_on(answer: str, reason: str) -> None:
    """Five times, eight letters, half of the text, a thousand bytes."""
    found = Repetition().examine(case(answer))
    assert (found is not None) is bool(reason)
    assert found is None or found.reason.startswith(reason)


def test_a_repetition_shows_what_is_repeated() -> None:
    """And is none in a number, nor in a text of fewer letters than it looks at."""
    found = Repetition().examine(case(" ".join([_SENTENCE] * 12)))
    assert found is not None
    assert found.evidence == _SENTENCE[:-1]
    found = Repetition().examine(case("ab" * 3000))
    assert found is not None
    assert found.evidence.startswith("abab")
    assert Repetition().examine(case(" ".join([_SENTENCE] * 12), NUMBER)) is None
    assert Repetition.LEAST == 200


@pytest.mark.parametrize(
    "answer,kind",
    [
        (PROSE, AnswerKind.TEXT),
        ("1" + "0" * 350, NUMBER),
        ("\n".join(f"{n} * {n} = {n * n}" for n in range(60)), AnswerKind.TEXT),
        ("\n".join(f"    result[{n}] = compute(row, {n % 7})" for n in range(40)), AnswerKind.CODE),
    ],
)
def test_prose_tables_programs_and_digits_are_no_repetition(answer: str, kind: AnswerKind) -> None:
    """Some things are alike by nature."""
    assert Repetition().examine(case(answer, kind)) is None


@pytest.mark.parametrize(
    "answer,kind,fields",
    [
        ("I do not know", NUMBER, {}),
        ("The 3 men walk on. " * 30, NUMBER, {}),
        ("about 12 or 13", NUMBER, {"strict": True}),
        ("I would say B\nbecause A is wrong", CHOICE, {}),
        ("E", CHOICE, {"choices": ("A", "B")}),
        ("the answer is x squared", EXPRESSION, {}),
        ("2026-13", AnswerKind.TEXT, {"pattern": r"\d{4}-(0\d|1[0-2])"}),
        ("in 2026-12", AnswerKind.TEXT, {"pattern": r"\d{4}-(0\d|1[0-2])"}),
        ("a" * 1001, AnswerKind.TEXT, {"pattern": "a*"}),
        ("1" * 1001, NUMBER, {"pattern": "1*"}),
        ("", NUMBER, {}),
        ("1" * 400 + "x", NUMBER, {}),
        ("1-" * 200 + "x", NUMBER, {}),
        ("12", CHOICE, {"choices": ("A", "B")}),
        ("C " * 100 + "C", CHOICE, {}),
        ("x " * 4990 + "is the answer", EXPRESSION, {}),
    ],
)
def test_an_answer_of_another_form_than_was_asked_for(answer: str, kind: AnswerKind, fields: dict[str, object]) -> None:
    """It goes another round."""
    found = msgspec.convert(fields, AnswerFormat).examine(case(answer, kind))
    assert found is not None
    assert found.action == "more_reasoning"


@pytest.mark.parametrize(
    "answer,kind,fields",
    [
        ("42", NUMBER, {"strict": True}),
        ("9" * 1000, NUMBER, {}),
        ("-1,234.5", NUMBER, {"strict": True}),
        ("12 apples", NUMBER, {}),
        (r"\frac{1}{2}", NUMBER, {}),
        ("(b)", CHOICE, {"choices": ("A", "B")}),
        ("Zoey is a sage, and Riley is a fool.", CHOICE, {}),
        ("x**2 * sin(x) + log(x) / 2 + C", EXPRESSION, {}),
        (r"\left( x + 1 \right) \cdot \sqrt{2}", EXPRESSION, {}),
        ("anything at all", AnswerKind.TEXT, {}),
        ("a" * 1000, AnswerKind.TEXT, {"pattern": "a*"}),
        (" a ", AnswerKind.TEXT, {"pattern": "a"}),
        ("1-" * 200, NUMBER, {}),
        (" C\n", CHOICE, {"choices": ("c",)}),
        ("C " * 99 + "CC", CHOICE, {}),
        ("x " * 5000 + "is the answer", EXPRESSION, {}),
        ("2026-12", AnswerKind.TEXT, {"pattern": r"\d{4}-(0\d|1[0-2])"}),
    ],
)
def test_an_answer_of_the_form_that_was_asked_for(answer: str, kind: AnswerKind, fields: dict[str, object]) -> None:
    """Nothing is to be said."""
    assert msgspec.convert(fields, AnswerFormat).examine(case(answer, kind)) is None


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "(" * 2000 + ")" * 2000])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    """With its file, at the start."""
    with pytest.raises(msgspec.ValidationError, match="pattern: no regular expression"):
        msgspec.convert({"pattern": pattern}, AnswerFormat)


def test_characters_have_bounds() -> None:
    """At least one; and a pattern is not tried on more than ten thousand."""
    for rule, field, out in ((RunawayLength, "characters", [0]), (AnswerFormat, "longest", [0, 10_001])):
        for value in out:
            with pytest.raises(msgspec.ValidationError, match=field):
                msgspec.convert({field: value}, rule)
    assert msgspec.convert({"longest": 10_000}, AnswerFormat).longest == 10_000
    assert msgspec.convert({"longest": 1}, AnswerFormat).longest == 1
    assert RunawayLength().characters == 100_000
    with pytest.raises(msgspec.ValidationError, match="answers"):
        msgspec.convert({"answers": []}, AllowList)


def test_what_is_wrong_with_the_form_is_said_with_the_answer() -> None:
    """Numbers, choices and expressions each in words of their own."""
    told = {
        (NUMBER, "none", ""): "no number, where one was asked for",
        (NUMBER, "1 or 2", "strict"): "not a number alone",
        (CHOICE, "A\nB", ""): "not one of the choices alone",
        (CHOICE, "E", "choices"): "none of the choices A, B",
        (EXPRESSION, "it is so", ""): "words, where an expression was asked for",
    }
    for (kind, answer, what), reason in told.items():
        rule = AnswerFormat(strict=what == "strict", choices=("A", "B") if what == "choices" else ())
        found = rule.examine(case(answer, kind))
        assert found is not None
        assert (found.reason, found.evidence) == (reason, answer)
    found = AnswerFormat(pattern="a" * 200).examine(case("b"))
    assert found is not None
    assert (len(found.reason), found.evidence) == (len("not of the form ''") + 100, "b")
    found = AnswerFormat(choices=("A" * 200,)).examine(case("b", CHOICE))
    assert found is not None
    assert len(found.reason) == len("none of the choices ") + 100


def test_what_a_verifier_accepted_has_its_form() -> None:
    """It knows better; one that looks at the form alone does not."""
    asked = case("no solution", NUMBER)
    for verifier, verified, accepted in (("mine", True, True), ("number", True, False), ("mine", False, False)):
        result = msgspec.structs.replace(asked.result, verified=verified, verifier=verifier)
        found = AnswerFormat().examine(msgspec.structs.replace(asked, result=result))
        assert (found is None) is accepted


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, 1.5, -0.1])
def test_a_score_that_is_none_is_noticed(score: float) -> None:
    """A model's own is flagged, and the result's own is a reason to reject it."""
    policy = ScoreSanity()
    flagged = policy.examine(case("42", answers=(Answer(node="a", model="m", text="42", score=score),)))
    rejected = policy.examine(case("42", score=score))
    assert flagged is not None
    assert rejected is not None
    assert (flagged.action, rejected.action) == ("flag", "reject")
    assert flagged.evidence == f"a/m: {score!r}"
    assert flagged.reason.split(", ")[0].endswith("finite" if not math.isfinite(score) else "between 0 and 1")
    assert rejected.evidence == f"score {score!r}, confidence {score!r}"
    for field in ("score", "confidence"):
        result = msgspec.structs.replace(case("42").result, **{field: score})
        found = policy.examine(case("42", result=result))
        assert found is not None
        assert found.action == "reject"


def test_scores_between_0_and_1_and_none_at_all_are_fine() -> None:
    """Most models give none."""
    for score in (0.0, 1.0):
        assert ScoreSanity().examine(case("42", score=score)) is None
    given = tuple([Answer(node="a", model="m", text="42", score=s) for s in (None, 0.0, 0.5, 1.0)])
    assert ScoreSanity().examine(case("42", answers=given)) is None
