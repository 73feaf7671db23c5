"""What each step costs, in microseconds of processor time a round, without Kafka, lake and event loop.

Run it as `python -m tests.bench.steps`.
"""

import gc
import hashlib
import time
from collections import deque
from collections.abc import Mapping

from connectors.topics import RETRY, TASKS
from flows.accepted import AcceptedRecords
from flows.affinity import Affinities
from flows.cluster import INPUTS
from flows.items import Answered, Decided, Routed, Supervised
from flows.lane import Lane, Sealer
from flows.policies import SimpleThresholdPolicy
from flows.settings import Settings
from flows.steps.derive import derive
from flows.steps.intake import Reading, classify
from flows.steps.plan import Limits, Planner
from flows.steps.route import Router
from flows.steps.supervise import Supervision
from flows.steps.validate import Verifier, built_in_verifiers, validate
from flows.supervision import built_in_supervisor
from flows.supervision.health import TopicRecord
from one_lake.encode import encode_rows
from schemas.decision import RoundResult, read_decision
from schemas.ids import Owner
from schemas.node import Answer, NodeCapabilities
from tests.bench.bench import task_message


class _Memory:
    """An index of ids that forgets nothing."""

    next_offset = 0

    def __init__(self) -> None:
        self._owners: dict[bytes, Owner] = {}
        self.get = self._owners.get
        self.put = self._owners.__setitem__


def measure(count: int, models: int) -> dict[str, float]:  # noqa: PLR0915 - a line or two for each step
    """Send tasks through all steps, three rounds each, and tell what each step costs."""
    settings = Settings(score_threshold=0.99)
    sealer = Sealer(b"k" * 32)
    reading = Reading(0, 1, sealer, settings.max_task_bytes, RETRY, settings.retry_delay_s)
    lane = Lane(0, INPUTS, _Memory(), span=1 << 20, in_flight=1 << 20)
    lane.begin_reading({})
    nodes = [NodeCapabilities(node=f"n{i}", models=(f"n{i}",)) for i in range(models)]
    affinities, topics, records, verifiers = Affinities(), TopicRecord(), AcceptedRecords(), built_in_verifiers()
    router = Router(lambda: (1, nodes), verifiers, affinities, stopped=topics.stopped)
    supervisor = built_in_supervisor()
    supervise = Supervision(supervisor, 3, topics, records).supervise
    planner = Planner(SimpleThresholdPolicy(settings), Limits(1, 3, 3, 16), may_quote=supervisor.may_quote)
    spent: dict[str, float] = {}
    rounds = log_end = 0

    def timed(step: str, started: float) -> float:
        now = time.process_time()
        spent[step] = spent.get(step, 0.0) + now - started
        return now

    queues = {name: deque[tuple[int, bytes]]() for name in INPUTS}
    ends = dict.fromkeys(INPUTS, 0)
    for i in range(count):
        queues[TASKS].append((i, task_message(i)))
    ends[TASKS] = count
    while any(queues.values()):
        at = time.process_time()
        messages = [
            classify(reading, name, offset, value, 1.0) for name, queue in queues.items() for offset, value in queue
        ]
        at = timed("classify", at)
        for queue in queues.values():
            queue.clear()
        for message in messages:
            lane.read(message)
        at = timed("lane.read", at)
        handed, _ = lane.hand_out(2.0)
        at = timed("lane.hand_out", at)
        routed = [router.route(m, 2.0) for m in handed]
        at = timed("route", at)
        answered = [_answered(r) for r in routed]
        at = timed("(answers)", at)
        judged = [Supervised(a, _validated(a, affinities, verifiers)) for a in answered]
        at = timed("validate", at)
        judged = [j if j.result is None else supervise(j.answered, j.result) for j in judged]
        at = timed("supervise", at)
        encoded = [planner.plan(0, j, 3.0) for j in judged]
        at = timed("plan", at)
        decisions = [read_decision(e) for e in encoded]
        at = timed("read_decision", at)
        decided, hashes = [], []
        for offset, (decision, line) in enumerate(zip(decisions, encoded, strict=True), log_end):
            if lane.log(offset, decision):
                decided.append((offset, decision))
                hashes.append(hashlib.sha256(line).hexdigest())
        log_end += len(decisions)
        at = timed("lane.log", at)
        affinities.learn(0, decided)
        at = timed("learn", at)
        topics.learn(0, decided)
        at = timed("learn: topics", at)
        records.learn(0, decided)
        at = timed("learn: records", at)
        derived = derive(Decided(0, decided, hashes), sealer, "a-cluster")
        at = timed("derive", at)
        encode_rows(derived.rows)
        timed("rows to lines", at)
        rounds += len(decisions)
        for out in derived.messages:
            queues[out.kafka_topic].append((ends[out.kafka_topic], out.value))
            ends[out.kafka_topic] += 1
    return {step: seconds / rounds * 1e6 for step, seconds in spent.items()}


def _answered(routed: Routed) -> Answered:
    return Answered(routed, tuple([Answer(node=c.node, model=c.model, text="42", latency_s=0.1) for c in routed.calls]))


def _validated(answered: Answered, affinities: Affinities, verifiers: Mapping[str, Verifier]) -> RoundResult:
    body = answered.routed.message.body
    return validate(body.view, answered.answers, verifiers, affinities.votes(body.task.topic, 3.0))


def main(count: int = 200, repeats: int = 50) -> None:
    """Print the least that each step took, in batches as the cell has them."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    print(f"  microseconds a round{'1 model':>10}{'3 models':>10}")
    runs = {models: [measure(count, models) for _ in range(repeats)] for models in (1, 3)}
    least = {models: {step: min(run[step] for run in some) for step in some[0]} for models, some in runs.items()}
    for step in least[1]:
        print(f"  {step:<20}{least[1][step]:>10.2f}{least[3][step]:>10.2f}")
    print(f"  {'all':<20}{sum(least[1].values()):>10.2f}{sum(least[3].values()):>10.2f}")


if __name__ == "__main__":
    main()
