"""Asks the models of the settings what nothing is recorded of, as a cell would, but for Kafka."""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from connectors.ledger import CallLedger
from connectors.nodes.registry import NodeRegistry
from flows.budget import Budgets
from flows.calls import CallRunner, RunnerParts
from flows.evaluation import Question, message_of
from flows.items import Answered
from flows.prompts import Prompts
from flows.settings import Settings, import_object
from flows.steps.route import Router
from flows.terminal import printable, say
from flows.tries import RetryPolicy
from schemas.errors import RefusedError

TELL_EVERY_S = 2.0
LOOK_EVERY_S = 0.01


def ask_models(settings: Settings, questions: Sequence[Question]) -> list[Question]:
    """Ask every model that serves its topic each question that nothing is recorded of, once.

    Raises:
        RefusedError: no node serves a topic; it is named, with the question.
    """
    registry = NodeRegistry(settings.nodes, import_object, Prompts)
    nodes = [node.capabilities for node in registry.nodes.values()]
    router = Router(lambda: (1, nodes), {}, render=registry.present.prompts.messages)
    rounds = []
    for place, question in enumerate(questions):
        if question.said:
            continue
        # several questions may have one id, and answers are known by it
        named = msgspec.structs.replace(question, logical_id=f"{place}-{question.logical_id}")
        routed = router.route(message_of(named, place, 0.0), 0.0)
        if routed.refusal is not None:
            raise RefusedError(f"question {question.logical_id!r}: {routed.refusal[1]}; `topic` names another")
        rounds.append(routed)
    with tempfile.TemporaryDirectory(prefix="aureon-eval-") as folder:
        runner = CallRunner(
            RunnerParts(
                nodes=lambda: registry,
                retry=RetryPolicy(settings.call_tries, settings.call_backoff_s),
                ledger=lambda: CallLedger(Path(folder) / "calls.sqlite"),
                budgets=Budgets,
                silence_s=settings.node_silence_s,
            )
        )
        try:
            lane = runner.new_lane()
            runner.submit(lane, rounds)
            answered = _collect(runner, lane.outbox, len(rounds))
        finally:
            runner.close()
    _tell_failed(answered)
    found = {each.routed.message.offset: each.answers for each in answered}
    return [msgspec.structs.replace(q, answers=found.get(place, q.answers)) for place, q in enumerate(questions)]


def _collect(runner: CallRunner, outbox: Sequence[Answered], rounds: int) -> Sequence[Answered]:
    """Wait for all rounds; tell now and then how far it is."""
    told_at = time.monotonic()
    while len(outbox) < rounds:
        runner.check()
        time.sleep(LOOK_EVERY_S)
        if time.monotonic() - told_at > TELL_EVERY_S:
            told_at = time.monotonic()
            say(f"{len(outbox):,} of {rounds:,} questions answered")
    return outbox


def _tell_failed(answered: Sequence[Answered]) -> None:
    """Say of each model whose calls failed how many did, and why the last one."""
    asked = Counter((a.node, a.model) for each in answered for a in each.answers)
    failed = [a for each in answered for a in each.answers if a.status == "failed"]
    errors = {(a.node, a.model): a.error for a in failed}
    counts = Counter((a.node, a.model) for a in failed)
    for (node, model), error in errors.items():
        told = f"{counts[node, model]:,} of {asked[node, model]:,} calls failed; the last one: {printable(error)}"
        say(f"{node}/{model}: {told}")
