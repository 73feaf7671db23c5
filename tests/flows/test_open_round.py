"""An open round: what it asks after a restart, what it has taken, how long it waits for its other calls."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from connectors.ledger import Begun, Ended, Past, call_name
from flows.budget import Purse, Spent
from flows.open_round import OpenRound
from schemas.node import Answer
from schemas.task import Allowance
from tests.flows.call_parts import call, routed


def round_of(calls: int, reserves: int = 0) -> OpenRound:
    """A round whose calls and reserves are of nodes 0, 1, 2, ...; its calls are asked."""
    every = tuple([call(node=str(n)) for n in range(calls + reserves)])
    round_ = OpenRound(routed(*every[:calls], reserves=every[calls:]), 1, b"key")
    round_.calls.extend(round_.routed.calls)
    round_.answers.extend([None] * calls)
    return round_


def past_of(answered: set[int], in_flight: set[int]) -> Past:
    """What an earlier life knew: which nodes had answered, and which were being asked."""
    past = Past()
    for node in sorted(answered | in_flight, reverse=True):
        past.begin(Begun(b"key", call_name(call(node=str(node)))))
    for node in answered:
        past.end(Ended(b"key", Answer(node=str(node), model="m")))
    return past


@given(st.integers(1, 5), st.integers(0, 5), st.sets(st.integers(0, 12)), st.sets(st.integers(0, 12)))
def test_after_a_restart_what_was_paid_for_is_asked_first_and_nothing_is_lost(
    calls: int, reserves: int, answered: set[int], begun: set[int]
) -> None:
    """No fewer calls than at first, more only where they are answered; all others stay reserves, in their order."""
    begun -= answered
    round_ = round_of(calls, reserves)
    first = [int(c.node) for c in round_.resume(past_of(answered, begun))]
    rest = [int(c.node) for c in round_.reserves]
    every = range(calls + reserves)
    known = [n for n in every if n in answered]
    assert sorted([*first, *rest]) == list(every)
    assert len(first) == max(calls, len(known))
    assert first[: len(known)] == known
    paid = [n in begun for n in first[len(known) :]]
    assert paid == sorted(paid, reverse=True)
    assert all(paid) or not begun & set(rest)
    assert rest == sorted(rest)
    assert [n for n in every if round_.known(call(node=str(n))) is not None] == known
    assert len(round_.abandoned) == len(begun)


def test_a_call_that_was_given_back_keeps_its_place_and_comes_last_once() -> None:
    """Another one is asked before it, and it is no reserve for itself."""
    round_ = round_of(2, 1)
    first, _, reserve = *round_.calls, round_.reserves[0]
    round_.answers[0] = Answer(node="0", model="m", status="failed")
    round_.give_back(0)
    assert round_.reserves == (reserve, first)
    round_.reserves = (first,)
    assert not round_.has_reserve_for(0)
    assert round_.has_reserve_for(1)
    round_.reserves = ()
    assert round_.place(first) == 0
    assert round_.answers == [None, None]
    assert round_.place(reserve) == 2
    assert round_.missing == 2
    round_.give_back(0)
    assert round_.reserves == ()


def test_what_a_round_has_taken_counts_all_tries_and_those_in_flight_at_a_kill() -> None:
    """Where something is limited, its purse knows."""
    round_ = round_of(2)
    round_.resume(past_of(set(), {0}))
    answers = [Answer(node="0", model="m", tries=2, tokens_in=3, tokens_out=4, cost=0.5), Answer(node="1", model="m")]
    assert round_.spent(answers) == Spent(3 + answers[1].tries, 7, 0.5)
    round_.purse = Purse(Allowance(calls=9), Spent(5, 6, 7.0))
    assert round_.spent(answers) == Spent(5, 6, 7.0)


def others_wait(round_: OpenRound, waits: Mapping[str, float], fewest: int = 0) -> float | None:
    """How long it waits beside its first call."""
    return round_.others_wait(0, lambda other: waits.get(other.node), fewest)


def test_a_round_waits_for_the_slowest_of_its_other_calls() -> None:
    """An answer is there; a call that failed, or whose node is not asked, is waited for by nobody."""
    round_ = round_of(4, 1)
    assert others_wait(round_, {"0": 9.0, "1": 2.0, "2": 3.0, "4": 1.0}) == 3.0
    round_.answers[2] = Answer(node="2", model="m")
    assert others_wait(round_, {"1": 2.0, "2": 3.0}) == 2.0
    round_.answers[1] = Answer(node="1", model="m", status="failed")
    assert others_wait(round_, {"1": 2.0}) == 0.0


def test_a_round_that_has_nobody_else_counts_on_its_best_reserve() -> None:
    """Where that cannot be asked either, nobody can serve."""
    round_ = round_of(2, 3)
    round_.answers[1] = Answer(node="1", model="m", status="failed")
    assert others_wait(round_, {"0": 9.0, "2": 5.0, "3": 4.0}) == 4.0
    assert others_wait(round_, {"0": 9.0}) is None


def test_other_calls_that_ask_too_few_models_are_none() -> None:
    """What has failed or abstained is no vote; two calls of one model are one."""
    round_ = OpenRound(routed(call(), *(call(node=str(n), model="ab"[n % 2]) for n in range(1, 5))), 1, b"key")
    round_.calls.extend(round_.routed.calls)
    round_.answers.extend([None] * 5)
    waits = {str(node): float(node) for node in range(1, 5)}
    assert others_wait(round_, waits, 2) == 4.0
    assert others_wait(round_, waits, 3) is None
    round_.answers[1] = Answer(node="1", model="b", status="failed")
    round_.answers[3] = Answer(node="3", model="b", status="abstained")
    assert others_wait(round_, waits, 2) is None
    assert others_wait(round_, waits, 1) == 4.0
    round_.reserves = (call(node="2"),)
    assert others_wait(round_, waits, 2) == 2.0
