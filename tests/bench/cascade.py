"""What a cascade saves and what it costs in accuracy, on recorded answers, through the real steps but for the calls.

    answers of the file ─► route ─► (answers) ─► validate ─► supervise ─► plan ─► read back ─► learn

Run it as `python -m tests.bench.cascade FILE`. FILE has one JSON object a line: `topic`, `question`, `truth`, and
`responses`, from model to text, whose final number stands after `####`, after `A:`, or last. Models are priced in the
order of --order, each twice the one before. Everything is learned on the way, in the order of the stream; the truth is
looked at only to count.
"""

import argparse
import random
import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from connectors.topics import RETRY, TASKS
from flows.affinity import Affinities
from flows.budget import expected
from flows.comparing.equivalence import number
from flows.escalation import Escalation
from flows.items import Answered
from flows.lane import Message, Sealer
from flows.policies import SimpleThresholdPolicy
from flows.settings import Settings
from flows.steps.intake import Reading, classify
from flows.steps.plan import Limits, Planner
from flows.steps.route import PRESUMED_BEST, Router, Strategy
from flows.steps.supervise import Supervision
from flows.steps.validate import built_in_verifiers, validate
from flows.supervision import built_in_supervisor
from flows.votes import RELIABILITY
from schemas.decision import Decision, DecisionKind, read_decision
from schemas.node import Answer, Call, NodeCapabilities
from tests.flows.logged import followed

_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*|-?\.\d+")
SEALER = Sealer(b"k" * 32)
READING = Reading(0, 1, SEALER, 1 << 25, RETRY, 5.0)


class Question(Struct, frozen=True):
    """One line of the file, with what each model finally said."""

    prompt: str
    truth: str
    said: dict[str, str]


class Outcome(Struct):
    """What a run came to."""

    right: int = 0
    tasks: int = 0
    forced: int = 0
    cost: float = 0.0
    calls: dict[str, int] = {}

    def share(self, model: str) -> float:
        """Calls to one model, a task."""
        return self.calls.get(model, 0) / self.tasks

    @property
    def accuracy(self) -> float:
        """The share of the tasks that got the right answer."""
        return self.right / self.tasks


def final_number(text: str) -> str:
    """Read what a model finally said."""
    for mark in ("####", "A:"):
        found = _NUMBER.search(text.rpartition(mark)[2]) if mark in text else None
        if found:
            return found.group().rstrip(".").replace(",", "")
    every = _NUMBER.findall(text)
    return every[-1].rstrip(".").replace(",", "") if every else ""


def read(path: Path) -> list[Question]:
    """Read the file."""
    rows: list[dict[str, Any]] = [msgspec.json.decode(line) for line in path.read_bytes().splitlines() if line.strip()]
    return [
        Question(r["question"], r["truth"], {m: final_number(text) for m, text in r["responses"].items()}) for r in rows
    ]


def nodes_of(order: list[str]) -> list[NodeCapabilities]:
    """A node for each model, each twice as dear as the one before."""
    return [
        NodeCapabilities(node=f"n{i}", models=(m,), price_in=2.0**i, price_out=2.0**i, max_tokens=256)
        for i, m in enumerate(order)
    ]


def run(questions: list[Question], nodes: list[NodeCapabilities], strategy: Strategy, settings: Settings) -> Outcome:
    """Send all questions through the steps, one after the other."""
    capabilities = {n.node: n for n in nodes}
    affinities = Affinities(PRESUMED_BEST if strategy.kind == "cascade" else RELIABILITY)
    verifiers = built_in_verifiers()
    router = Router(lambda: (0, nodes), verifiers, affinities, strategy)
    escalation = Escalation(verifiers, affinities, lambda: (0, nodes), strategy.agree)
    planner = Planner(SimpleThresholdPolicy(settings), Limits(1, 3, 3, 16))
    supervision = Supervision(built_in_supervisor(), 3)
    outcome = Outcome(calls={})
    offset = 0

    def ask(call: Call, question: Question) -> Answer:
        outcome.calls[call.model] = outcome.calls.get(call.model, 0) + 1
        cost = expected(capabilities[call.node], call)[1]
        outcome.cost += cost
        text = question.said[call.model]
        status = "ok" if text else "abstained"
        return Answer(node=call.node, model=call.model, status=status, text=text, cost=cost)  # type: ignore[arg-type]

    def decide(message: Message, question: Question, at: float) -> tuple[int, Decision]:
        nonlocal offset
        routed = router.route(message, at)
        answers = [ask(call, question) for call in routed.calls]
        reserves = list(routed.reserves) if routed.escalates else []
        while reserves and not escalation.enough(routed, answers):
            answers.append(ask(reserves.pop(0), question))
        result = validate(message.body.view, answers, verifiers, affinities.votes("math", at))
        answered = Answered(routed, tuple(answers))
        judged = supervision.supervise(answered, result)
        decided = offset, read_decision(planner.plan(0, judged, at))
        offset += 1
        affinities.learn(0, [decided])
        return decided

    for place, question in enumerate(questions):
        task = {"topic": "math", "logical_id": f"q{place}"}
        task["payload"] = {"prompt": question.prompt, "answer_kind": "number"}  # type: ignore[assignment]
        value, kafka_topic = msgspec.json.encode(task), TASKS
        while True:
            at, decision = decide(classify(READING, kafka_topic, place, value, 1.0), question, 1.0 + place)
            if decision.kind != DecisionKind.NEXT_ROUND:
                break
            (follow_up,) = followed([(at, decision)], SEALER).messages
            value, kafka_topic = follow_up.value, follow_up.kafka_topic
        answer = decision.result.answer if decision.result is not None else None
        outcome.tasks += 1
        outcome.forced += decision.forced
        outcome.right += number(answer or "") == number(question.truth)
    return outcome


def _print(name: str, outcomes: list[Outcome], base: list[float], strongest: str) -> None:
    n = len(outcomes)
    gaps = [o.accuracy - b for o, b in zip(outcomes, base, strict=True)]
    print(
        f"  {name:<38}{sum(o.accuracy for o in outcomes) / n:>9.3f}{sum(gaps) / n:>+9.3f}{min(gaps):>+8.3f}"
        f"{sum(o.share(strongest) for o in outcomes) / n:>10.1%}{sum(o.cost / o.tasks for o in outcomes) / n:>11.6f}"
        f"{sum(o.forced / o.tasks for o in outcomes) / n:>8.1%}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Print the curve."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cascade", description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--order", default="", help="models, cheap first, with commas; by default as in the file")
    parser.add_argument("--shuffles", type=int, default=4, help="orders of the stream besides that of the file")
    parser.add_argument("--halves", type=int, default=0, help="random halves instead of the whole file, both of each")
    parser.add_argument("--rounds", type=int, default=1, help="the most rounds of a task")
    parser.add_argument("--threshold", type=float, default=0.85, help="from which score on the policy accepts")
    given = parser.parse_args(arguments)
    questions = read(given.file)
    order = given.order.split(",") if given.order else list(questions[0].said)
    settings = Settings(max_rounds=given.rounds, score_threshold=given.threshold)
    streams = [] if given.halves else [questions]
    for seed in range(given.halves or given.shuffles):
        mixed = questions[:]
        random.Random(seed).shuffle(mixed)
        half = len(mixed) // 2
        streams += [mixed[:half], mixed[half:]] if given.halves else [mixed]
    nodes = nodes_of(order)
    once = msgspec.structs.replace(settings, max_rounds=1)
    alone = {n.models[0]: [run(s, [n], Strategy(), once) for s in streams] for n in nodes}
    strongest = order[-1]
    base = [o.accuracy for o in alone[strongest]]
    print(f"  {len(streams)} streams of {len(streams[0])}; gap: to {strongest} alone, mean and worst")
    print(f"  {'':<38}{'accuracy':>9}{'gap':>9}{'worst':>8}{'dearest':>10}{'cost/task':>11}{'forced':>8}")
    for model, outcomes in alone.items():
        _print(model, outcomes, base, strongest)
    strategies = {"all": Strategy(), "best-2": Strategy("best", 2), "best-3": Strategy("best", 3)}
    for first in (2, 3, 4, 5):
        for agree in (0.9, 0.95, 0.97, 0.975, 0.98, 0.99):
            if first < len(order):
                strategies[f"cascade first={first} agree={agree:g}"] = Strategy("cascade", first, agree)
    for name, strategy in strategies.items():
        _print(name, [run(s, nodes, strategy, settings) for s in streams], base, strongest)


if __name__ == "__main__":
    main()
