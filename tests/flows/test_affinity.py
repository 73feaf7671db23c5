"""Affinities: what teaches, what it is forgotten by, and that a node which is wrong is asked less, and found again."""

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import affinity, counts
from flows.affinity import ENOUGH_TAUGHT, MAX_TOPICS, OLDER_S, Affinities
from flows.counts import HALF_LIFE_S
from flows.lessons import lesson_of
from flows.steps.route import Strategy
from flows.steps.validate import posterior, validate
from flows.votes import RELIABILITY, weight_of
from schemas.blob import BlobReference
from schemas.decision import Decision, DecisionKind, RoundResult
from schemas.node import Answer, Call, NodeCapabilities
from schemas.task import AnswerKind, PayloadView, encode
from tests.flows.ensemble import Ensemble

NUMBER = PayloadView(prompt="6*7", answer_kind=AnswerKind.NUMBER)
PAYLOAD = msgspec.Raw(b'{"prompt":"6*7","answer_kind":"number"}')


def said(node: str, text: str = "42", **fields: Any) -> Answer:
    """One answer."""
    return Answer(node=node, model="m", text=text, **fields)


def decided(
    *answers: Answer, at: float = 100.0, topic: str = "math", result: dict[str, Any] | None = None, **fields: Any
) -> Decision:
    """A decision as read back: what `validate` makes of the answers, converged, but for what is said otherwise."""
    judged = msgspec.structs.replace(validate(NUMBER, answers, {}), **(result or {}))
    given = {"kind": DecisionKind.CONVERGED, "topic": topic, "payload": PAYLOAD, "result": judged, "decided_at": at}
    return Decision(kafka_topic="tasks.global", offset=0, task_id="t:r0", **{**given, **fields})


def taught(*decisions: Decision) -> Affinities:
    """What is known after these."""
    affinities = Affinities()
    affinities.learn(0, enumerate(decisions))
    return affinities


def quality(affinities: Affinities, node: str, topic: str = "math", now: float = 100.0) -> float:
    """How often a node is expected to be right."""
    ((right, wrong),) = affinities.chances(topic, [(node, "m")], now)
    return right / (right + wrong)


def weight(affinities: Affinities, node: str) -> float:
    """What its vote counts."""
    votes = affinities.votes("math", 100.0)
    assert votes is not None
    return next(m.weight for m in votes.parameters.models if m.node == node)


DISSENT = (said("a"), said("b"), said("c", "7"))


def test_agreement_of_several_models_teaches_who_was_right() -> None:
    """Those who led gain, the outvoted one loses."""
    affinities = taught(*[decided(*DISSENT)] * 5)
    assert quality(affinities, "a") == quality(affinities, "b") > RELIABILITY > quality(affinities, "c")
    assert weight(affinities, "a") > weight_of(RELIABILITY) > weight(affinities, "c")
    assert quality(affinities, "a", "logic") == pytest.approx(RELIABILITY)


@pytest.mark.parametrize(
    "decision",
    [
        decided(*DISSENT, forced=True),
        decided(*DISSENT, kind=DecisionKind.NEXT_ROUND),
        decided(said("a")),
        decided(said("a"), said("a", sample=1), said("c", "7")),
        decided(*DISSENT, result={"leading": ()}),
        decided(said("a", status="failed", tries=0, error="the budget is spent")),
        decided(said("a"), kind=DecisionKind.DEAD),
    ],
)
def test_what_nobody_confirms_teaches_nothing(decision: Decision) -> None:
    """Forced, not converged, one model's own word, an answer of an earlier round, a call that was never asked."""
    affinities = taught(decision)
    assert all(quality(affinities, node) == pytest.approx(RELIABILITY) for node in "abc")


def test_a_verifier_teaches_even_where_nothing_converged() -> None:
    """What it refuses was wrong; what others said, nobody knows."""
    refused = taught(decided(*DISSENT, kind=DecisionKind.NEXT_ROUND, result={"verified": False}))
    assert quality(refused, "a") < RELIABILITY == pytest.approx(quality(refused, "c"))
    accepted = taught(decided(said("a"), said("c", "7"), forced=True, result={"verified": True}))
    assert quality(accepted, "a") > RELIABILITY > quality(accepted, "c")


def test_where_many_answers_are_right_the_verifiers_choice_says_nothing_of_others() -> None:
    """Two good programs differ."""
    program = msgspec.Raw(b'{"prompt":"sort","answer_kind":"code"}')
    affinities = taught(decided(said("a"), said("c", "7"), payload=program, result={"verified": True}))
    assert quality(affinities, "a") > RELIABILITY == pytest.approx(quality(affinities, "c"))


def test_that_an_answer_has_the_right_form_teaches_nothing() -> None:
    """A wrong number is one too. What several models agree on does as ever, and so does a refusal."""
    formal = {"verified": True, "evidence": "verifier", "verifier": "number"}
    alone = taught(decided(said("a"), said("c", "7"), result={**formal, "leading": (0,)}))
    assert quality(alone, "a") == quality(alone, "c") == pytest.approx(RELIABILITY)
    agreed = taught(decided(*DISSENT, result=formal))
    assert quality(agreed, "a") > RELIABILITY > quality(agreed, "c")
    refused = taught(decided(*DISSENT, result={"verified": False, "verifier": "number"}))
    assert quality(refused, "a") < RELIABILITY


def test_failures_and_abstentions_lower_quality_and_not_the_weight_of_a_vote() -> None:
    """Whom to ask is another question than whom to believe."""
    silent = said("c", "", status="abstained")
    affinities = taught(*[decided(*DISSENT[:2], silent)] * 10)
    assert quality(affinities, "c") < 0.25
    assert weight(affinities, "c") == pytest.approx(weight_of(RELIABILITY), abs=0.001)


def test_the_round_that_converges_tells_who_was_right_in_those_before() -> None:
    """Where two models are asked, a round in which they differ says nothing until a third one has spoken."""
    apart = decided(said("a"), said("c", "7"), kind=DecisionKind.NEXT_ROUND)
    assert quality(taught(apart), "c") == pytest.approx(RELIABILITY)
    together = taught(apart, decided(said("a"), said("b")))
    assert quality(together, "a") > quality(together, "b") > RELIABILITY > quality(together, "c")
    forced = taught(apart, decided(said("a"), said("b"), forced=True), decided(said("a"), said("b")))
    assert quality(forced, "c") == pytest.approx(RELIABILITY)


def test_answers_of_rounds_that_never_converge_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first."""
    monkeypatch.setattr(affinity, "MAX_EARLIER_TASKS", 2)
    apart = [decided(said("c", "7"), kind=DecisionKind.NEXT_ROUND, logical_id=str(i)) for i in range(3)]
    ended = [decided(said("a"), said("b"), logical_id=str(i)) for i in range(3)]
    assert quality(taught(*apart, ended[0]), "c") == pytest.approx(RELIABILITY)
    assert quality(taught(*apart, ended[2]), "c") < RELIABILITY


def test_of_a_busy_topic_a_share_of_the_tasks_teaches_with_all_of_their_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned is the same, and in the next quiet second every task counts again."""
    monkeypatch.setattr(counts, "MAX_TAUGHT_PER_S", 100)
    taught_by: list[str] = []
    outcome = lesson_of

    def spied(decision: Decision, result: RoundResult) -> Any:
        taught_by.append(decision.logical_id)
        return outcome(decision, result)

    monkeypatch.setattr(affinity, "lesson_of", spied)
    affinities = Affinities()
    apart, agreed = (said("a"), said("c", "7")), (said("a"), said("b"), said("c"))
    for second in range(4):
        for i in range(400):
            task: dict[str, Any] = {"logical_id": f"{second}-{i}", "at": 100.0 + second}
            affinities.learn(0, [(2 * (400 * second + i), decided(*apart, kind=DecisionKind.NEXT_ROUND, **task))])
            affinities.learn(0, [(2 * (400 * second + i) + 1, decided(*agreed, **task))])
    assert affinities.seen("math") == 3200
    rounds = Counter(taught_by)
    assert set(rounds.values()) == {2}
    by_second = Counter(task.split("-")[0] for task in rounds)
    assert by_second["0"] == 400
    assert all(10 <= by_second[s] <= 50 for s in "123")
    assert quality(affinities, "c", now=104.0) == pytest.approx(0.5, abs=0.1)
    quiet = decided(*agreed, logical_id="quiet", at=200.0)
    affinities.learn(0, [(9999, quiet)])
    assert "quiet" in taught_by


def test_a_replay_teaches_nothing_twice() -> None:
    """An offset below the lane's next one is skipped; other lanes have their own."""
    affinities = taught(decided(*DISSENT), decided(*DISSENT))
    before = msgspec.json.encode(affinities.state())
    affinities.learn(0, [(0, decided(*DISSENT)), (1, decided(*DISSENT))])
    assert msgspec.json.encode(affinities.state()) == before
    affinities.learn(1, [(0, decided(*DISSENT))])
    assert affinities.state().next_offsets == {0: 2, 1: 1}
    assert quality(affinities, "c") < quality(taught(decided(*DISSENT), decided(*DISSENT)), "c")


@given(st.lists(st.sampled_from(["42", "7", "8", ""]), min_size=1, max_size=30), st.integers(0, 30))
def test_what_is_restored_goes_on_as_if_nothing_had_been(texts: list[str], cut: int) -> None:
    """The state is all that there is."""
    decisions = [
        decided(said("a"), said("b"), said("c", t), said("d", t), at=float(i * 50)) for i, t in enumerate(texts)
    ]
    whole = taught(*decisions)
    first = taught(*decisions[:cut])
    restored = Affinities()
    restored.restore(first.encoded())
    restored.learn(0, enumerate(decisions))
    assert restored.state() == whole.state()


def test_time_brings_back_the_prior() -> None:
    """By half a day for day."""
    affinities = taught(*[decided(*DISSENT)] * 50)
    known = [quality(affinities, "c", now=100.0 + days * HALF_LIFE_S) for days in (0, 1, 3, 10, 30)]
    assert all(one < other for one, other in pairwise(known))
    assert known[0] < 0.1
    assert known[-1] == pytest.approx(RELIABILITY, abs=0.01)


def test_a_file_declares_the_prior_by_topic() -> None:
    """A star is for all others."""
    affinities = Affinities()
    affinities.declare([NodeCapabilities(node="a", models=("m",), affinity={"math": 0.9, "*": 0.3})])
    assert quality(affinities, "a") == pytest.approx(0.9)
    assert quality(affinities, "a", "logic") == pytest.approx(0.3)
    assert quality(affinities, "b") == pytest.approx(RELIABILITY)


def test_topics_are_forgotten_that_were_not_seen_for_longest() -> None:
    """They are the users' to invent."""
    affinities = taught(*[decided(*DISSENT, topic=f"t{i}") for i in range(MAX_TOPICS)])
    affinities.learn(0, [(MAX_TOPICS, decided(*DISSENT, topic="t0")), (MAX_TOPICS + 1, decided(*DISSENT, topic="new"))])
    topics = [counts.topic for counts in affinities.state().topics]
    assert len(topics) == MAX_TOPICS
    assert topics[-2:] == ["t0", "new"]
    assert "t1" not in topics


def test_models_of_a_topic_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes come and go."""
    monkeypatch.setattr(counts, "MAX_MODELS", 4)
    affinities = taught(*[decided(said(f"n{i}"), said(f"n{i + 1}")) for i in range(20)])
    (topic,) = affinities.state().topics
    assert len(topic.models) == 4


# -- votes ---------------------------------------------------------------------------------------------------------


def test_where_nothing_is_known_all_votes_count_the_same() -> None:
    """And there is nothing to look up."""
    affinities = Affinities()
    affinities.declare([NodeCapabilities(node=n, models=("m",)) for n in "abc"])
    assert affinities.votes("math", 100.0) is None


@given(st.lists(st.sampled_from("wxyz"), min_size=1, max_size=8))
def test_votes_of_unknown_models_are_those_of_a_plain_vote(texts: list[str]) -> None:
    """To the last digit that is kept."""
    affinities = taught(decided(said("other"), said("another")))
    votes = affinities.votes("math", 100.0)
    assert votes is not None
    groups = [list(dict.fromkeys(texts)).index(t) for t in texts]
    sizes = tuple(groups.count(g) for g in range(max(groups) + 1))
    tally = votes.tally(tuple((f"n{i}", "m") for i in range(len(texts))), tuple(groups))
    assert tally.chances == pytest.approx([posterior(sizes, size) for size in sizes], abs=2e-6)


@given(
    st.lists(st.tuples(st.sampled_from(["42", "7", "8"]), st.sampled_from(["42", "7", "9"])), max_size=40),
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
)
def test_chances_are_chances(history: list[tuple[str, str]], choice: list[int]) -> None:
    """Whatever was learned, they are none below 0, and together with all other answers they are 1 at most."""
    affinities = taught(*[decided(said("a"), said("b"), said("c", c), said("d", d)) for c, d in history])
    votes = affinities.votes("math", 100.0)
    if votes is None:
        return
    groups = tuple(sorted(set(choice)).index(g) for g in choice)
    in_order = tuple(list(dict.fromkeys(groups)).index(g) for g in groups)
    tally = votes.tally(tuple(("abcd"[i], "m") for i in range(len(choice))), in_order)
    assert all(0.0 <= chance <= 1.0 for chance in tally.chances)
    assert sum(tally.chances) <= 1.0 + 1e-5


def test_one_strong_model_outweighs_two_weak_ones_that_agree() -> None:
    """Once it is known which is which."""
    rng = random.Random(5)
    history = []
    for _ in range(60):
        weak = [said(n, "42" if rng.random() < 0.3 else str(rng.randrange(100, 999))) for n in ("w1", "w2")]
        history.append(decided(said("strong"), said("judge"), *weak))
    votes = taught(*history).votes("math", 100.0)
    asked = [said("w1", "7"), said("w2", "7"), said("strong", "42")]
    assert validate(NUMBER, asked, {}).answer == "7"
    judged = validate(NUMBER, asked, {}, votes)
    assert judged.answer == "42"
    assert judged.leading == (2,)


def test_models_that_err_alike_are_no_two_witnesses() -> None:
    """The second adds less than one that errs on its own."""
    alike = [decided(said("a"), said("b"), said("c", str(i)), said("d", str(i))) for i in range(50, 80)]
    apart = [decided(said("a"), said("b"), said("c", str(i)), said("d", str(-i))) for i in range(50, 80)]
    chances = []
    for history in (alike, apart):
        votes = taught(*history, *[decided(said("a"), said("b"), said("c"), said("d"))] * 200).votes("math", 100.0)
        assert votes is not None
        chances.append(votes.tally((("c", "m"), ("d", "m")), (0, 0)).chances[0])
    assert chances[0] < chances[1]


# -- whom it makes the router ask ----------------------------------------------------------------------------------

GOOD, BAD = "algebra", "logic"


class _ThreeNodes:
    """Three nodes, two that are right nine times of ten, and one that for a while is wrong on one topic."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.wrong = True
        self.ensemble = Ensemble([NodeCapabilities(node=n, models=("m",)) for n in "xyz"], Strategy("best", 2))
        self.seed = seed
        self.tasks = 0

    def ask(self, call: Call) -> Answer:
        """Wrong answers mostly agree with nobody."""
        chance = 0.03 if call.node == "z" and call.topic == BAD and self.wrong else 0.9
        right = self.rng.random() < chance
        return Answer(node=call.node, model="m", text="42" if right else str(self.rng.randrange(43, 60)))

    def share(self, topic: str, tasks: int) -> float:
        """Refine so many tasks; which share of the calls did the third node get?"""
        self.ensemble.calls.clear()
        for _ in range(tasks):
            self.ensemble.task(topic, f"{self.seed}-{topic}-{self.tasks}", self.ask)
            self.tasks += 1
        return self.ensemble.calls["z"] / self.ensemble.calls.total()


def test_a_node_is_asked_less_where_it_is_wrong_and_as_much_as_ever_where_it_is_right(
    record_property: Any,
) -> None:
    """Within 200 tasks less than every tenth call goes to it; once it is right again its share is back within 500."""
    shares: dict[str, list[float]] = {name: [] for name in ("bad", "good", "back")}
    for seed in range(20):
        nodes = _ThreeNodes(seed)
        nodes.share(BAD, 100)
        shares["bad"].append(nodes.share(BAD, 100))
        shares["good"].append(nodes.share(GOOD, 200))
        nodes.wrong = False
        nodes.share(BAD, 400)
        shares["back"].append(nodes.share(BAD, 100))
    means = {name: sum(s) / len(s) for name, s in shares.items()}
    told = ", ".join(f"{n} {means[n]:.3f} ({min(s):.3f} to {max(s):.3f})" for n, s in shares.items())
    record_property("shares", told)
    assert max(shares["bad"]) < 0.10, told
    assert means["good"] == pytest.approx(1 / 3, abs=0.05), told
    assert min(shares["back"]) > 0.2, told
    assert means["back"] == pytest.approx(1 / 3, abs=0.06), told


def test_what_the_cluster_knows_of_more_topics_than_there_is_room_for_takes_the_place_of_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of those on which nothing was learned, whose votes are then made anew each time."""
    root = taught(*[decided(*DISSENT, topic=topic) for topic in ("one", "two", "three")])
    monkeypatch.setattr(affinity, "MAX_TOPICS", 2)
    cell = Affinities()
    for known in root.state().topics:
        cell.adopt(known)
    assert [known.topic for known in cell.state().topics] == ["two", "three"]

    cell.declare([NodeCapabilities(node="a", models=("m",), affinity={"*": 0.9})])
    first = [cell.votes(topic, 100.0) for topic in ("four", "five", "six")]
    again = [cell.votes(topic, 100.0) for topic in ("four", "five", "six")]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True, True, False]


def test_what_a_root_knew_that_is_long_gone_replaces_nothing() -> None:
    """It stands on Kafka for as long as no other root comes, and each start of a cell reads it."""
    (of_root,) = taught(*[decided(*DISSENT)] * 5).state().topics
    late = 100.0 + OLDER_S
    behind, since = taught(decided(*DISSENT, at=late)), taught(decided(*DISSENT, at=late + 1))
    known = since.state()
    since.adopt(of_root)
    assert since.state() == known
    behind.adopt(of_root)
    (adopted,) = behind.state().topics
    assert adopted.models == of_root.models


def test_a_root_that_knows_less_replaces_nothing_till_it_knows_enough() -> None:
    """One without a memory begins with the last decisions, and of a rare topic there are few among them."""
    cell = taught(*[decided(*DISSENT)] * 2 * ENOUGH_TAUGHT)
    known = cell.state()
    (of_root,) = taught(*[decided(*DISSENT)] * 5).state().topics
    for count, is_adopted in ((5, False), (ENOUGH_TAUGHT - 1, False), (ENOUGH_TAUGHT, True)):
        cell.adopt(msgspec.structs.replace(of_root, taught=count))
        assert (cell.state() != known) is is_adopted


def test_time_that_has_not_gone_by_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of pairs that are too many the oldest is forgotten."""
    topic = counts.Topic(100.0)
    topic.counts(("a", "m")).right = 3.0
    topic.age(100.0)
    assert topic.counts(("a", "m")).right == 3.0
    monkeypatch.setattr(counts, "MAX_MODELS", 1)
    names = [(("a", "m"), (f"{number}", "m")) for number in range(9)]
    made = [topic.pair(name) for name in names]
    assert list(topic.pairs) == names[1:]
    assert topic.pair(names[8]) is made[8]


def test_a_verdict_on_a_question_that_is_elsewhere_is_no_example() -> None:
    """Its answers cannot be put into groups; that one of them is right is known all the same."""
    away = msgspec.Raw(encode(BlobReference("sha256-" + "0" * 64, 5)))
    verdict = {"verified": True, "verifier": "own", "evidence": "verifier"}
    for payload, examples in ((PAYLOAD, 1), (away, 0)):
        known = taught(decided(said("a"), said("b"), result=verdict, payload=payload))
        assert len(known._topics["math"].examples) == examples
        assert quality(known, "a") > RELIABILITY


def test_of_other_texts_in_earlier_rounds_a_verdict_on_one_tells_nothing() -> None:
    """Many may be right, of which the verifier saw one; that of the one itself counts."""
    text = msgspec.Raw(b'{"prompt":"how?","answer_kind":"text"}')
    first = decided(said("a", "so"), said("b", "thus"), kind=DecisionKind.NEXT_ROUND, payload=text)
    verdict = {"verified": True, "verifier": "own", "evidence": "verifier"}
    last = decided(said("c", "so"), result=verdict, payload=text, round_index=1)
    known = taught(first, last)
    assert quality(known, "a") > RELIABILITY
    assert quality(known, "b") == pytest.approx(RELIABILITY)
