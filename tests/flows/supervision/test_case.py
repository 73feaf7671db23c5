"""What a policy is told, and how it says what it has found."""

import pytest

from flows.accepted import Accepted
from flows.budget import Spent
from flows.supervision import Supervisor, is_rejected
from flows.supervision.case import UNKNOWN, Case, Health, Rule, TextRule, clipped
from flows.supervision.form import EmptyAnswer
from flows.supervision.insults import Insults
from flows.supervision.supervisor import Entry
from schemas.task import Allowance
from tests.flows.supervision.cases import case


def test_a_case_tells_of_answer_question_and_what_is_left() -> None:
    """And of the record that the question has."""
    known = Accepted("first", "42", "cross-model")
    told = case("42", spent=Spent(calls=2), allowance=Allowance(calls=5), look_up=lambda: known)
    assert (told.answer, told.question, told.left.calls, told.accepted) == ("42", "6*7", 3, known)
    assert case(None).answer == ""


def test_a_case_that_says_nothing_is_a_first_round_of_three() -> None:
    """Of which nothing is known."""
    plain = Case(case("42").result)
    assert (plain.generation, plain.round_index, plain.attempt, plain.max_rounds) == (0, 0, 0, 3)
    assert (plain.accepted, plain.get_health("math", 9), UNKNOWN) == (None, UNKNOWN, Health(rejected=0, examined=0))


def test_a_finding_has_what_its_action_needs() -> None:
    """The cap of a cap, the pause of a stop; its policy is named with them."""
    flag, cap, stop = Insults(action="flag"), Insults(action="cap", cap=0.3), Insults(action="stop_topic")
    assert [r.name for r in (flag, cap, stop)] == [
        "insults(flag)",
        "insults(cap=0.3, cap)",
        "insults(pause_s=600, stop_topic)",
    ]
    assert [(f.cap, f.pause_s) for f in (r.finding("so") for r in (flag, cap, stop))] == [
        (None, 0.0),
        (0.3, 0.0),
        (None, 600.0),
    ]
    assert Insults(action="cap").finding("so").cap == 0.5
    assert cap.finding("so", "there", "reject").action == "reject"
    assert Insults(also=("a", "b"), action="flag").name == "insults(also=('a', 'b'), flag)"


def test_evidence_is_cut_with_a_mark() -> None:
    """Where it is longer than it may be."""
    assert clipped("x" * 200) == "x" * 200
    assert clipped("x" * 201) == "x" * 199 + "…"
    assert clipped("abcdef", 3) == "ab…"
    assert len(Insults().finding("so", "x" * 500).evidence) == 200


def test_a_rule_says_itself_what_it_looks_for() -> None:
    """One that does not is none; and it is asked about any text, unless it says what is too short for it."""
    assert is_rejected(Supervisor([Entry(EmptyAnswer())]).examine(case("")))
    with pytest.raises(NotImplementedError):
        Rule().examine(case("42"))
    with pytest.raises(NotImplementedError):
        TextRule().examine(case("42"))
