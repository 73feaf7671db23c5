"""The cell: tasks from Kafka, refined by several models until they converge, their records into ONE.

    tasks.global ─┬─► intake ─► route ─► infer ─► validate ─► supervise ─► plan ─► tasks.results
    tasks.results ┘      │                                                              │
          ▲              └─► derive ─┬─► follow-ups: next rounds, branches, retries     │
          │                          └─► ONE                                            │
          └─────────────────────────────────────────────────────────────────────────────┘

Run it with `aureon run`, or by itself:

    python -m bytewax.run flows.refine -r STATE/recovery -s 2 -b 0
"""

import atexit
import gc
import logging
import signal
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

from connectors.lane_sinks import LaneSink, Outgoing
from connectors.told_errors import tells_errors
from connectors.topics import RESULTS
from flows import logs
from flows.budget import Budgets, is_unlimited
from flows.cell import Cell
from flows.cell_status import CellStatus
from flows.items import Answered, Decided, Handed, Routed, Supervised, Work
from flows.lane import Message
from flows.lane_source import LaneSource
from flows.learning import Learning
from flows.settings import read_settings
from flows.steps.derive import Derived, derive
from flows.steps.infer import Inference
from flows.steps.intake import mark_of
from flows.steps.plan import Planner
from flows.steps.route import Router
from flows.steps.supervise import Supervision
from flows.steps.validate import validate
from flows.telemetry import Telemetry
from flows.votes import Votes
from one_lake.output import LaneRows, OneSink
from schemas.decision import DecisionKind
from schemas.task import Allowance, encode

log = logging.getLogger(__name__)

X = TypeVar("X")
MAX_KEPT = 10_000


@tells_errors
class Steps:
    """The steps with what they need of a cell; each is asked for when the first message comes."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._kept: set[str] = set()
        """Versions of votes that are in the blob store."""

    @cached_property
    def _router(self) -> Router:
        return self._cell.router()

    @cached_property
    def _learning(self) -> Learning:
        return self._cell.learning()

    @cached_property
    def _budgets(self) -> Budgets:
        return self._cell.budgets()

    @cached_property
    def _supervision(self) -> Supervision:
        return self._cell.supervision()

    @cached_property
    def _planner(self) -> Planner:
        return self._cell.planner()

    def route(self, handed: Handed) -> list[Routed]:
        """Choose the calls of each round."""
        return [self._router.route(message, handed.at, self._allowance(message)) for message in handed.messages]

    def _allowance(self, message: Message) -> Allowance | None:
        """What a round may spend; None where nothing is limited."""
        if message.verdict is not None:
            return None
        allowance = self._budgets.of_round(message.body.task)
        return None if is_unlimited(allowance) else allowance

    def infer(self, _state: None) -> Inference:
        """Open the rounds of a lane."""
        return Inference(self._cell.runner(), self._cell.stopping)

    def validate(self, rounds: list[Answered]) -> list[Supervised]:
        """Judge each round's answers; none where no model was asked."""
        rules, affinities, now = self._cell.rules, self._learning.memories.affinities, time.time()
        judged = []
        for answered in rounds:
            body = answered.routed.message.body
            result = None
            if isinstance(body, Work) and answered.answers:
                known = affinities.votes(body.task.topic, now)
                if known is not None and known.version not in self._kept:
                    self._keep(known)
                by, checks = rules.comparison, answered.checks
                result = validate(body.view, answered.answers, rules.verifiers, known, by, checks)
            judged.append(Supervised(answered, result))
        return judged

    def _keep(self, votes: Votes) -> None:
        """Keep what a decision's confidence can be computed again from, before any decision names it."""
        self._cell.overflow.keep(votes.encoded)
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept.add(votes.version)

    def supervise(self, rounds: list[Supervised]) -> list[Supervised]:
        """Lay each result before the policies."""
        supervise = self._supervision.supervise
        return [r if r.result is None else supervise(r.answered, r.result) for r in rounds]

    def plan(self, item: tuple[str, list[Supervised]]) -> tuple[str, list[Outgoing]]:
        """Decide on each round."""
        key, rounds = item
        lane, now = int(key), time.time()
        return key, [Outgoing(RESULTS, lane, b"", self._planner.plan(lane, r, now)) for r in rounds]

    def mark(self, item: tuple[str, Handed]) -> tuple[str, list[Outgoing]]:
        """Write the marks that intake asks for."""
        key, handed = item
        return key, [Outgoing(RESULTS, int(key), b"", encode(mark_of(m))) for m in handed.marks]

    def derive(self, decided: Decided) -> Derived:
        """Carry winning decisions out, and learn from them."""
        self._learning.learn(decided, time.time())
        self._cell.decided += len(decided.decisions)
        self._cell.tally(decided.lane).add(decided.decisions)
        if (traces := self._cell.traces) is not None:
            traces.offer(decided.decisions)
        if log.isEnabledFor(logging.INFO):
            for _, decision in decided.decisions:
                level = logging.INFO if decision.kind is DecisionKind.DEAD else logging.DEBUG
                log.log(level, "%s %s", decision.kind, logs.reason_of(decision), extra=logs.about(decision))
        connected = self._cell.connect()
        return derive(decided, connected.sealer, connected.cluster.cluster_id)


def refine_flow(
    steps: Steps,
    lanes_source: Source[tuple[str, Handed | Decided]],
    results: Sink[tuple[str, list[Outgoing]]],
    follow_ups: Sink[tuple[str, list[Outgoing]]],
    one: Sink[tuple[str, LaneRows]],
) -> Dataflow:
    """Build the flow. Every item is a batch of one lane, since the cost of a step is by the item.

    The step ids are frozen: the recovery store knows the state by them.
    """
    flow = Dataflow("refine")

    lanes = op.input("intake", flow, lanes_source)
    # (lane, Handed | Decided)
    handed = op.filter_map("handed", lanes, only(Handed))
    decided = op.filter_map("decided", lanes, only(Decided))

    routed = op.map_value("route", handed, steps.route)
    # (lane, [Routed])
    answered = op.stateful_batch("infer", routed, steps.infer)
    # (lane, [Answered])
    validated = op.map_value("validate", answered, steps.validate)
    # (lane, [Supervised])
    supervised = op.map_value("supervise", validated, steps.supervise)
    # (lane, [Supervised])
    decisions = op.map("plan", supervised, steps.plan)
    # (lane, [Outgoing])
    marks = op.map("mark", handed, steps.mark)
    # (lane, [Outgoing])
    op.output("results", op.merge("decisions_and_marks", decisions, marks), results)

    derived = op.map_value("derive", decided, steps.derive)
    # (lane, Derived)
    op.output("follow_ups", op.map_value("messages", derived, lambda d: d.messages), follow_ups)
    op.output("one", op.map_value("rows", derived, lambda d: LaneRows(d.lane, d.rows, d.begins)), one)
    return flow


def only(kind: type[X]) -> Callable[[tuple[str, Handed | Decided]], tuple[str, X] | None]:
    """Pick one of the two kinds of items that the source emits."""

    def pick(item: tuple[str, Handed | Decided]) -> tuple[str, X] | None:
        return (item[0], item[1]) if isinstance(item[1], kind) else None

    return pick


def cell_flow(cell: Cell) -> Dataflow:
    """The flow of a cell, connected when it runs."""
    # What was imported lives to the end, and messages come and go without cycles: cycles are looked for less often.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sink = LaneSink(
        lambda: cell.connect().topics.lanes,
        lambda: cell.connect().producer,
        lambda kafka_topic, lane: cell.connect().expect(kafka_topic, lane),
    )
    return refine_flow(
        Steps(cell),
        LaneSource(cell.lane_parts()),
        sink,
        sink,
        OneSink(cell.lake_writer, cell.publish_head, lambda: cell.stopping.asked),
    )


def flow() -> Dataflow:
    """What `python -m bytewax.run flows.refine` runs: the cell that the environment describes.

    SIGTERM and Ctrl-C end it gracefully; a second one does not wait for the calls in flight.
    """
    cell = Cell(read_settings())
    if cell.settings.log_format == "json":
        logs.set_up("warning", "json")
    atexit.register(cell.close)
    atexit.register(Telemetry(cell.settings, CellStatus(cell)).start().close)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: cell.stopping.ask())
    return cell_flow(cell)
