"""Tasks through the real steps, but for Kafka and the calls: what a test says is what the models answer."""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from connectors.topics import RETRY, TASKS
from flows.affinity import Affinities
from flows.escalation import Escalation
from flows.items import Answered
from flows.lane import Sealer
from flows.policies import SimpleThresholdPolicy
from flows.settings import Settings
from flows.steps.intake import Reading, classify
from flows.steps.plan import Limits, Planner
from flows.steps.route import Router, Strategy
from flows.steps.supervise import Supervision
from flows.steps.validate import built_in_verifiers, validate
from flows.supervision import built_in_supervisor
from schemas.decision import Decision, DecisionKind, read_decision
from schemas.node import Answer, Call, NodeCapabilities
from tests.flows.logged import followed

SEALER = Sealer(b"k" * 32)
READING = Reading(0, 1, SEALER, 1 << 25, RETRY, 5.0)


class Ensemble:
    """Some nodes that learn of each other, task by task."""

    def __init__(self, nodes: Sequence[NodeCapabilities], strategy: Strategy) -> None:
        self.affinities = Affinities()
        self.calls: Counter[str] = Counter()
        """By node, since it was last cleared."""
        self.router = Router(lambda: (1, nodes), built_in_verifiers(), self.affinities, strategy)
        self._escalation = Escalation(built_in_verifiers(), self.affinities, lambda: (1, nodes), strategy.agree)
        self._planner = Planner(SimpleThresholdPolicy(Settings()), Limits(1, 3, 3, 16))
        self._supervision = Supervision(built_in_supervisor(), 3)
        self._offset = 0

    def task(self, topic: str, logical_id: str, ask: Callable[[Call], Answer]) -> Decision:
        """Refine one task to its end."""
        task = {"topic": topic, "logical_id": logical_id, "payload": {"prompt": "6*7", "answer_kind": "number"}}
        value, kafka_topic = msgspec.json.encode(task), TASKS
        while True:
            at, now = self._offset, 1000.0 + self._offset
            message = classify(READING, kafka_topic, at, value, now)
            routed = self.router.route(message, now)
            answers = [ask(call) for call in routed.calls]
            reserves = list(routed.reserves) if routed.escalates else []
            while reserves and not self._escalation.enough(routed, answers):
                answers.append(ask(reserves.pop(0)))
            self.calls.update(a.node for a in answers)
            known = self.affinities.votes(topic, now)
            answered = Answered(routed, tuple(answers))
            result = validate(message.body.view, answers, built_in_verifiers(), known)
            judged = self._supervision.supervise(answered, result)
            decision = read_decision(self._planner.plan(0, judged, now))
            self.affinities.learn(0, [(at, decision)])
            self._offset += 1
            if decision.kind != DecisionKind.NEXT_ROUND:
                return decision
            (follow_up,) = followed([(at, decision)], SEALER).messages
            value, kafka_topic = follow_up.value, follow_up.kafka_topic
