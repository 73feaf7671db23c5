"""Which nodes are kept out of a topic."""

from collections.abc import Sequence

import pytest

from flows.counts import ModelCounts, TopicCounts
from flows.quarantine import PROBATION_ROUNDS, Kept, judge
from schemas.supervision import Quarantine, Stage


def topic(fared: dict[str, Sequence[bool]], taught: int = 100) -> TopicCounts:
    """A topic on which the nodes fared like that, the last outcome last."""
    models = []
    for node, outcomes in fared.items():
        counts = ModelCounts(node=node, model="m")
        for right in outcomes:
            counts.outcome(float(right))
        models.append(counts)
    return TopicCounts(topic="math", at=0.0, models=models, taught=taught)


def kept(stage: Stage, taught: int = 0) -> dict[str, Kept]:
    """Node `c` is in that stage."""
    return {"c": Kept(Quarantine(node="c", topic="math", stage=stage, why="", since=0.0), taught)}


GOOD, BAD = [True] * 20, [False] * 20


def stages(counts: TopicCounts, known: dict[str, Kept] | None = None) -> dict[str, Stage]:
    """Who changes to which."""
    return {o.node: o.stage for o in judge(counts, known or {}, 5.0)}


def test_who_is_wrong_where_others_are_right_is_kept_out() -> None:
    """And told why."""
    (order,) = judge(topic({"a": GOOD, "b": GOOD, "c": BAD}), {}, 5.0)
    assert (order.node, order.topic, order.stage, order.since) == ("c", "math", Stage.QUARANTINED, 5.0)
    assert order.why == "right in 0% of its last answers, where the best other is in 100%"


def test_who_was_right_and_begins_to_lie_is_kept_out_within_twenty_outcomes() -> None:
    """What it did before is soon forgotten."""
    lies = next(n for n in range(100) if stages(topic({"a": GOOD, "b": GOOD, "c": [*GOOD, *[False] * n]})))
    assert lies < 20


@pytest.mark.parametrize(
    "fared",
    [
        {"a": GOOD, "b": GOOD, "c": [False] * 4},
        {"a": BAD, "b": BAD, "c": BAD},
        {"c": BAD},
        {"a": [True, False] * 10, "b": [True, True, False] * 7, "c": [True, False, False] * 7},
    ],
    ids=["too little is known", "all are wrong", "it is alone", "it is only worse"],
)
def test_who_may_be_of_use_stays(fared: dict[str, Sequence[bool]]) -> None:
    """One that is merely worse counts for less, and is not kept out."""
    assert not stages(topic(fared))


def test_who_does_well_again_is_on_probation_and_then_free() -> None:
    """Free after some rounds more."""
    well = topic({"a": GOOD, "b": GOOD, "c": [*BAD, *GOOD]})
    assert stages(well, kept(Stage.QUARANTINED)) == {"c": Stage.PROBATION}
    assert not stages(well, kept(Stage.PROBATION, taught=100))
    assert stages(well, kept(Stage.PROBATION, taught=100 - PROBATION_ROUNDS)) == {"c": Stage.FREE}


def test_who_lies_on_probation_is_kept_out_again() -> None:
    """At once."""
    assert stages(topic({"a": GOOD, "b": GOOD, "c": BAD}), kept(Stage.PROBATION)) == {"c": Stage.QUARANTINED}


def test_who_still_lies_stays_in_quarantine() -> None:
    """And nothing is said of it again."""
    assert not stages(topic({"a": GOOD, "b": GOOD, "c": BAD}), kept(Stage.QUARANTINED))


def test_of_two_that_lie_none_is_the_measure_of_the_other() -> None:
    """Who is in quarantine is no example."""
    assert stages(topic({"a": GOOD, "b": BAD, "c": BAD}), kept(Stage.QUARANTINED)) == {"b": Stage.QUARANTINED}
