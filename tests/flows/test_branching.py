"""Branching: what follows from a record, by the result, by a planner, by a file; and that nothing follows twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import one_lake
from flows.branched import BranchedContents
from flows.branching import Branching, BranchPlanner, ConvergedRecord, DeclaredAffinities, make_planner
from flows.settings import Settings
from schemas.decision import Decision, DecisionKind, FollowUp, RoundResult
from schemas.errors import RefusedError
from schemas.ids import payload_digest
from schemas.node import Answer
from schemas.task import BranchProposal, TaskDescriptor, TaskHead, encode, read_payload
from tests.aureon_command import aureon
from tests.brokers import Broker

pytestmark = pytest.mark.embedded

OWN = {"prompt": "how fast?"}
FILE = """
[[follow_up]]
from = "physics"
to = "math"
prompt = "Check: $question It is said to be $answer."
answer_kind = "number"
priority = 2
score = 0.5
when = { min_confidence = 0.9, evidence = ["verifier", "cross-model"], matches = "[0-9]" }

[[follow_up]]
from = "physics"
to = "coding"
prompt = "Write a program for $question"
"""


def proposal(topic: str = "math", **payload: Any) -> BranchProposal:
    """One."""
    return BranchProposal(topic, msgspec.Raw(encode(payload or {"prompt": "so?"})))


def task(**fields: Any) -> TaskDescriptor:
    """A task that has converged."""
    return TaskDescriptor(topic="physics", logical_id="t", payload=msgspec.Raw(encode(OWN)), **fields)


def result(*branches: Any, answer: str = "42 m/s", **fields: Any) -> RoundResult:
    """What it converged to."""
    candidate = Answer(node="n", model="m", text=answer, meta={"branches": list(branches)} if branches else None)
    given: dict[str, Any] = {"confidence": 0.95, "evidence": "cross-model", **fields}
    return RoundResult(answer=answer, score=0.95, agreement=1.0, candidates=(candidate,), leading=(0,), **given)


class Planner:
    """A user's own, that proposes what it is told."""

    name = "own"

    def __init__(self, *proposals: Any) -> None:
        self._proposals = proposals
        self.seen: list[ConvergedRecord] = []

    def propose(self, record: ConvergedRecord) -> Sequence[BranchProposal]:
        """Note the record."""
        self.seen.append(record)
        return self._proposals


def gathered(
    judged: RoundResult, planner: BranchPlanner | None = None, *, forced: bool = False, **fields: Any
) -> tuple[list[str], list[str], list[str]]:
    """What is proposed, as `topic: prompt`; what is cut off; what was wrong."""
    known = fields.pop("known", lambda _topic, _digest: None)
    found, cut_off, warnings = Branching(planner, known).proposals(
        task(**fields), read_payload(encode(OWN)), judged, forced=forced
    )
    prompts = [f"{p.topic}: {json.loads(bytes(p.payload))['prompt']}" for p in found]
    return prompts, cut_off, warnings


def test_a_planner_adds_to_what_the_result_proposes() -> None:
    """It reads the record; where that was forced it is not asked."""
    planner = Planner(proposal("coding", prompt="and then?"))
    own = {"topic": "math", "payload": {"prompt": "so?"}}
    assert gathered(result(own), planner)[0] == ["math: so?", "coding: and then?"]
    (record,) = planner.seen
    assert (record.topic, record.question, record.answer, record.depth) == ("physics", "how fast?", "42 m/s", 0)
    assert gathered(result(own), planner, forced=True)[0] == ["math: so?"]
    assert len(planner.seen) == 1


def test_a_planner_that_fails_or_proposes_nonsense_is_warned_of() -> None:
    """And the record converges all the same."""

    class Failing(Planner):
        def propose(self, record: ConvergedRecord) -> Sequence[BranchProposal]:
            raise ValueError(f"no idea of {record.topic}")

    assert gathered(result(), Failing()) == ([], [], ["planner own: ValueError: no idea of physics"])
    found, _, warnings = gathered(result(), Planner({"topic": ""}, 7, {"topic": "math", "payload": {"prompt": "x"}}))
    assert found == ["math: x"]
    assert [w.partition(":")[0] for w in warnings] == ["planner own[0]", "planner own[1]"]
    assert gathered(result(), Planner(*[proposal(prompt=str(i)) for i in range(1001)]))[2] == [
        "planner own has 1,001 entries; those after 1,000 are left out"
    ]


def test_what_cannot_be_digested_is_like_nothing_else() -> None:
    """A number beyond all bounds: what becomes of it is told where it is read as a task."""
    two = [BranchProposal("math", msgspec.Raw(b'{"prompt":"%d","x":1e400}' % n)) for n in range(2)]
    assert gathered(result(), Planner(*two))[:2] == (["math: 0", "math: 1"], [])


def test_of_two_with_the_same_content_one_is_taken() -> None:
    """Whoever proposed it, and in whatever order its keys are; another topic is another task."""
    one = {"topic": "math", "payload": {"prompt": "x", "answer_kind": "number"}}
    other = {"topic": "math", "payload": {"answer_kind": "number", "prompt": "x"}}
    found, cut_off, _ = gathered(result(one, other), Planner(proposal("logic", prompt="x", answer_kind="number")))
    assert found == ["math: x", "logic: x"]
    assert cut_off == ["math: it is proposed twice"]


def test_a_task_does_not_spawn_itself() -> None:
    """That would go on for as long as it may."""
    assert gathered(result({"topic": "physics", "payload": OWN})) == ([], ["physics: it is the task itself"], [])


def branched(parent: str, *contents: tuple[str, str]) -> Decision:
    """A decision that spawned branches of these topics and prompts."""
    follow_ups = [
        FollowUp(
            kafka_topic="tasks.global",
            lane=0,
            task_id=f"{parent}:branch-{i}:r0",
            task=msgspec.Raw(encode(TaskHead(topic=topic, logical_id=f"{parent}:branch-{i}"))),
            payload=msgspec.Raw(encode({"prompt": prompt})),
        )
        for i, (topic, prompt) in enumerate(contents)
    ]
    return Decision(
        kind=DecisionKind.CONVERGED,
        kafka_topic="tasks.global",
        offset=0,
        task_id=f"{parent}:r0",
        topic="physics",
        logical_id=parent,
        follow_ups=tuple(follow_ups),
    )


def test_what_was_branched_before_is_not_branched_again() -> None:
    """By another parent, as far as is known; but in another life of the task it is."""
    contents = BranchedContents()
    contents.learn(0, [(0, branched("p", ("math", "so?")))])
    assert contents.branch_of("math", payload_digest(b'{"prompt":"so?"}')) == "p:branch-0"
    own = {"topic": "math", "payload": {"prompt": "so?"}}
    other = {"topic": "logic", "payload": {"prompt": "so?"}}

    def known(topic: str, digest: str) -> str | None:
        return contents.branch_of(topic, digest) and "branched already"

    assert gathered(result(own, other), known=known) == (["logic: so?"], ["math: branched already"], [])
    assert gathered(result(own), known=known, generation=1)[0] == ["math: so?"]


def test_what_was_branched_is_remembered_over_a_restart_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay teaches nothing twice, and the one spawned longest ago makes room."""
    monkeypatch.setattr("flows.branched.MAX_BRANCHES", 2)
    contents = BranchedContents()
    contents.learn(0, enumerate([branched("p", ("math", "1"), ("math", "2")), branched("q", ("math", "3"))]))
    again = BranchedContents()
    again.restore(contents.encoded())
    again.learn(0, [(0, branched("r", ("math", "9")))])
    found = {n: again.branch_of("math", payload_digest(encode({"prompt": n}))) for n in "1239"}
    assert found == {"1": None, "2": "p:branch-1", "3": "q:branch-0", "9": None}
    assert again.encoded() == contents.encoded()


@pytest.fixture
def declared(tmp_path: Path) -> DeclaredAffinities:
    """Physics is followed by math and coding."""
    (tmp_path / "branching.toml").write_text(FILE)
    planner = make_planner(Settings(branching=str(tmp_path / "branching.toml")))
    assert isinstance(planner, DeclaredAffinities)
    return planner


def test_a_file_declares_what_follows_what(declared: DeclaredAffinities) -> None:
    """With what was asked and answered in the prompt, and never read for more names."""
    found, _, warnings = Branching(declared).proposals(
        task(), read_payload(encode(OWN)), result(answer="$question 42"), forced=False
    )
    assert not warnings
    assert [(p.topic, p.priority, p.score) for p in found] == [("math", 2, 0.5), ("coding", 5, 0.0)]
    assert json.loads(bytes(found[0].payload)) == {
        "prompt": "Check: how fast? It is said to be $question 42.",
        "answer_kind": "number",
    }


@pytest.mark.parametrize(
    "fields", [{"confidence": 0.89}, {"evidence": "self"}, {"answer": "fast"}], ids=["unsure", "alone", "no number"]
)
def test_a_rule_does_not_apply_where_its_record_is_another(
    declared: DeclaredAffinities, fields: dict[str, Any]
) -> None:
    """The other, which asks for nothing, does."""
    assert gathered(result(**fields), declared)[0] == ["coding: Write a program for how fast?"]


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "declares nothing; each rule is a table [[follow_up]]"),
        ("[[follow_up]]\nfrom = 'a'\nto = 'b'", "follow_up 1: needs prompt"),
        (
            "[[follow_up]]\nfrom = 'a'\nto = 'b'\nprompt = 'x'\ncolour = 1",
            "follow_up 1: unknown field colour; there are: from, to, prompt, when",
        ),
        (
            "[[follow_up]]\nfrom = 'a'\nto = 'b'\nprompt = 'x'\npriority = 12",
            "follow_up 1: priority: Expected int <= 9",
        ),
        (
            "[[follow_up]]\nfrom = 'a'\nto = 'b'\nprompt = '$subject'",
            "follow_up 1 (a to b): prompt: $subject is not known here; there are: $answer, $question",
        ),
        (
            "[[follow_up]]\nfrom = 'a'\nto = 'b'\nprompt = 'x'\nwhen = { matches = '(' }",
            "follow_up 1 (a to b): when.matches: no regular expression: missing )",
        ),
        ("[[follow", "Expected"),
        pytest.param("x = " + "[" * 10_000, "not TOML: ", id="nested without end"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """It says where, and what there is."""
    path = tmp_path / "branching.toml"
    path.write_text(text)
    with pytest.raises(RefusedError) as refused:
        make_planner(Settings(branching=str(path)))
    assert str(refused.value).startswith(f"{path}: ")
    assert told in str(refused.value)


def test_a_planner_of_ones_own_is_named_by_its_place(tmp_path: Path) -> None:
    """No planner, and one that is not there, too."""
    assert make_planner(Settings()) is None
    assert isinstance(make_planner(Settings(branching=f"{__name__}:Planner")), Planner)
    with pytest.raises(RefusedError, match="AUREON_BRANCHING"):
        make_planner(Settings(branching=f"{__name__}:Nobody"))
    with pytest.raises(RefusedError, match=r"none\.toml: No such file"):
        make_planner(Settings(branching=str(tmp_path / "none.toml")))


def test_a_record_of_physics_is_followed_up_in_a_cell(own_broker: Broker, tmp_path: Path) -> None:
    """On math and coding, which converge; the same question again spawns nothing, and says why."""
    (tmp_path / "branching.toml").write_text(FILE)
    brokers = own_broker.brokers
    lines = json.dumps({"topic": "physics", "logical_id": "fall", "payload": OWN}) + "\n"
    options = ("--nodes", "tests.flows.refine_parts:quick_nodes", "--branching", "branching.toml")
    for text in (lines, lines.replace("fall", "again")):
        assert aureon("submit", "-", cwd=tmp_path, stdin=text, AUREON_BROKERS=brokers).returncode == 0
        done = aureon("run", "--until-idle", "1", *options, cwd=tmp_path, AUREON_BROKERS=brokers)
        assert done.returncode == 0, done.stderr
    with one_lake.connect(tmp_path / ".aureon/lake") as lake:
        lineage = lake.sql("SELECT topic, logical_id, status FROM lineage('fall') ORDER BY ALL").fetchall()
        ((cut_off,),) = lake.sql("SELECT cut_off FROM rounds WHERE logical_id = 'again'").fetchall()
    assert lineage == [
        ("coding", "fall:branch-1", "converged"),
        ("math", "fall:branch-0", "converged"),
        ("physics", "fall", "converged"),
    ]
    assert cut_off == [
        "math: it was branched already, as fall:branch-0",
        "coding: it was branched already, as fall:branch-1",
    ]


def test_a_branch_that_cannot_be_digested_follows_and_is_not_remembered() -> None:
    """A number beyond all that can be written down says nothing against the rest."""
    huge = msgspec.Raw(b'{"prompt": "so?", "n": 1e400}')
    known = Branching(Planner(), lambda _topic, digest: "it was branched already" if digest else None)
    payload = read_payload(encode(OWN))
    given = {"topic": "math", "payload": msgspec.Raw(b'{"prompt": "so?"}')}
    taken, doubles, _ = known.proposals(task(), payload, result({**given, "payload": huge}, given), forced=False)
    assert [bytes(p.payload) for p in taken] == [bytes(huge)]
    assert len(doubles) == 1

    contents = BranchedContents()
    head = encode(TaskHead(topic="math", logical_id="t:branch-0", task_id="t:branch-0:r0"))
    follow_up = FollowUp(kafka_topic="t", lane=0, task_id="", task=msgspec.Raw(head), payload=huge)
    decision = Decision(kind=DecisionKind.CONVERGED, kafka_topic="t", offset=0, task_id="t:r0", follow_ups=(follow_up,))
    contents.learn(0, [(0, decision)])
    assert contents.encoded() == BranchedContents().encoded().replace(b"{}", b'{"0":1}')
