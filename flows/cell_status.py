"""What operators see of a cell: its metrics, whether it is alive, whether it is ready.

All of it is looked up when somebody asks, from what the cell has anyway; nothing in the flow knows of it.
"""

import time
from collections.abc import Iterator
from typing import TypeVar

from connectors.lane_ends import LaneEnds, Place
from connectors.topics import RESULTS
from flows.cell import Cell
from flows.cluster import INPUTS
from flows.lane_source import OpenLane
from flows.metrics import Sample
from flows.tally import Histogram, Topics, TopicTally
from schemas.node import NodeHealth
from schemas.software import software_version

X = TypeVar("X")

STALLED_AFTER_S = 60.0
"""So long a lane may be without a turn: a step may prove, judge or write for a while."""
STARTS_WITHIN_S = 120.0
"""So long a start may take, from the first connection to the first turn."""


class CellStatus:
    """Looks at a cell from outside.

    Args:
        cell: what is looked at.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._topics = Topics()
        self._began = time.monotonic()
        self.ends = LaneEnds(self._config, self._partitions)
        self.parts = (
            self._process,
            self._decisions,
            self._lanes,
            self._nodes,
            self._ledger,
            self._lake,
            self._budgets,
        )

    # -- the probes ------------------------------------------------------------------------------------------------

    def ails(self) -> str:
        """Why the cell is not healthy; empty where it is. One that waits for its broker is."""
        age_s = self._turn_age_s(time.monotonic())
        if not self._cell.places:
            return f"no lane had a turn {age_s:.0f} s after the start" if age_s > STARTS_WITHIN_S else ""
        return f"a lane had no turn for {age_s:.0f} s" if age_s > STALLED_AFTER_S else ""

    def _turn_age_s(self, now: float) -> float:
        cell = self._cell
        oldest = min((place.turned_at for place in _values(cell.places)), default=self._began)
        return now - max(oldest, cell.waited_at)

    def lacks(self) -> str:
        """Why the cell is not ready; empty where it is."""
        cell = self._cell
        connected = cell.connected
        if connected is None or not cell.places:
            return "it is starting"
        if cell.stopping.asked:
            return "it is stopping"
        if self.ends.lacks:
            return f"the broker does not answer: {self.ends.lacks}"
        for number, place in sorted(dict(cell.places).items()):
            if place.tenure:
                lane = place.open_lane
                if lane is None:
                    return f"lane {number} is not open yet"
                if not lane.reads_inputs:
                    return f"lane {number} still reads its log"
        return "" if connected.ownership.is_sure else "it is not sure of its lanes"

    # -- where its lanes end ---------------------------------------------------------------------------------------

    def _config(self) -> dict[str, object] | None:
        connected = self._cell.connected
        return connected.config if connected is not None else None

    def _partitions(self) -> Iterator[Place]:
        """The log and the inputs of each open lane; without any, one partition, to see whether the broker is there."""
        yield RESULTS, 0
        for number, _ in self._open_lanes():
            yield from (
                (kafka_topic, number) for kafka_topic in (RESULTS, *INPUTS) if (kafka_topic, number) != (RESULTS, 0)
            )

    def _open_lanes(self) -> list[tuple[int, OpenLane]]:
        places = sorted(dict(self._cell.places).items())
        return [(number, lane) for number, place in places if (lane := place.open_lane) is not None]

    # -- the metrics -----------------------------------------------------------------------------------------------

    def _process(self) -> Iterator[Sample]:
        connected = self._cell.connected
        yield Sample("aureon_build_info", 1, ("cell", software_version()))
        yield Sample("aureon_broker_reachable", int(not self.ends.lacks))
        yield Sample("aureon_turn_age_seconds", round(self._turn_age_s(time.monotonic()), 3))
        if (traces := self._cell.traces) is not None:
            yield Sample("aureon_traced_decisions_total", traces.sent, ("sent",))
            yield Sample("aureon_traced_decisions_total", traces.dropped, ("dropped",))
        if connected is not None:
            yield Sample("aureon_producer_queue_messages", len(connected.producer))

    def _decisions(self) -> Iterator[Sample]:
        by_topic: dict[str, TopicTally] = {}
        seconds = Histogram()
        for tally in _values(self._cell.tallies):
            seconds.merge(tally.seconds)
            for topic, of_topic in dict(tally.topics).items():
                by_topic.setdefault(self._topics.name(topic), TopicTally()).merge(of_topic)
        for topic, of_topic in by_topic.items():
            for kind, count in of_topic.kinds.items():
                yield Sample("aureon_decisions_total", count, (topic, kind))
            yield Sample("aureon_forced_total", of_topic.forced, (topic,))
            yield Sample("aureon_calls_total", of_topic.calls, (topic,))
            yield Sample("aureon_tokens_total", of_topic.tokens, (topic,))
            yield Sample("aureon_cost_total", of_topic.cost, (topic,))
        yield Sample("aureon_decision_seconds", seconds)

    def _lanes(self) -> Iterator[Sample]:
        connected = self._cell.connected
        if connected is None:
            return
        lanes = self._open_lanes()
        yield Sample("aureon_lanes", connected.topics.lanes)
        yield Sample("aureon_lanes_held", sum(1 for place in _values(self._cell.places) if place.tenure))
        yield Sample("aureon_lanes_open", sum(1 for _, lane in lanes if lane.reads_inputs))
        for number, lane in lanes:
            yield from self._lane(number, lane)

    def _lane(self, number: int, lane: OpenLane) -> Iterator[Sample]:
        name, ends, position = str(number), self.ends.ends, lane.log_position
        yield Sample("aureon_lane_messages_under_way", lane.under_way, (name,))
        yield Sample("aureon_lane_duplicates_total", lane.duplicates, (name,))
        yield Sample("aureon_lane_log_position", position, (name,))
        if (end := ends.get((RESULTS, number))) is not None:
            yield Sample("aureon_lane_log_lag_entries", max(0, end - position), (name,))
        for kafka_topic, window in lane.windows().items():
            labels = name, kafka_topic
            yield Sample("aureon_lane_low_water", window.low, labels)
            yield Sample("aureon_lane_window_messages", window.next - window.low, labels)
            yield Sample("aureon_lane_window_bytes", window.held, labels)
            if (end := ends.get((kafka_topic, number))) is not None:
                # what was decided since the end was asked for is no backlog
                yield Sample("aureon_lane_waiting_messages", max(0, end - window.low), labels)

    def _nodes(self) -> Iterator[Sample]:
        runner = self._cell.running
        if runner is None:
            return
        yield Sample("aureon_rounds_under_way", runner.open_rounds)
        states = runner.states
        for node, gate in runner.gates.items():
            meter = gate.meter
            answered = sum(meter.seconds.counts)
            outcomes = {"answered": answered, "failed": meter.errors, "timed_out": meter.timeouts}
            for outcome, count in outcomes.items():
                yield Sample("aureon_node_calls_total", count, (node, outcome))
            yield Sample("aureon_node_call_seconds", meter.seconds, (node,))
            yield Sample("aureon_node_active_calls", gate.active, (node,))
            yield Sample("aureon_node_call_limit", gate.limit.value, (node,))
            for model, breaker in gate.breakers.items():
                yield Sample("aureon_node_breaker_open", int(not breaker.is_closed), (node, model))
            if (state := states.get(node)) is not None:
                yield Sample("aureon_node_queued_calls", state.queue_depth, (node,))
                for health in NodeHealth:
                    yield Sample("aureon_node_health", int(state.health is health), (node, health.value))

    def _ledger(self) -> Iterator[Sample]:
        runner = self._cell.running
        ledger = runner.ledger if runner is not None else None
        if ledger is not None:
            yield Sample("aureon_ledger_bytes", ledger.bytes_on_disk())
            yield Sample("aureon_ledger_limit_bytes", self._cell.settings.ledger_bytes)
            yield Sample("aureon_ledger_entries", ledger.entries)
            yield Sample("aureon_ledger_reused_total", ledger.reused)
            yield Sample("aureon_ledger_repeated_total", ledger.repeated)

    def _lake(self) -> Iterator[Sample]:
        writer = self._cell.writer
        if writer is None:
            return
        figures = writer.figures()
        for table, count in figures.commits.items():
            yield Sample("aureon_lake_commits_total", count, (table,))
            yield Sample("aureon_lake_rows_total", figures.rows[table], (table,))
        yield Sample("aureon_lake_commit_seconds", (figures.flushes, figures.flush_s))
        yield Sample("aureon_lake_last_commit_timestamp_seconds", figures.committed_at)
        yield Sample("aureon_gate_judged_total", figures.judged)
        yield Sample("aureon_gate_refused_total", figures.refused)

    def _budgets(self) -> Iterator[Sample]:
        cell = self._cell
        if cell.connected is None or not cell.settings.day_budget:
            return
        budgets, runner = cell.budgets(), cell.running
        held = [number for number, place in dict(cell.places).items() if place.tenure]
        if runner is not None:
            spent = runner.spent_today(held)
            yield Sample("aureon_day_spent_calls", spent.calls)
            yield Sample("aureon_day_spent_tokens", spent.tokens)
            yield Sample("aureon_day_spent_money", spent.cost)
        shares = [budgets.of_day(number) for number in held]
        for name, limits in (
            ("calls", [share.calls for share in shares]),
            ("tokens", [share.tokens for share in shares]),
            ("money", [share.cost for share in shares]),
        ):
            known = [limit for limit in limits if limit is not None]
            if known:
                yield Sample(f"aureon_day_limit_{name}", sum(known))


def _values(by_number: dict[int, X]) -> tuple[X, ...]:
    return tuple(by_number.values())  # the flow may change it meanwhile
