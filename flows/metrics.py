"""The metrics: which there are, by name, and how a scrape is put together from what the parts of a process tell.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for what only rises. Labels are few: no
task is ever one, and topics are bounded.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from flows.tally import BOUNDS_S, Histogram

log = logging.getLogger(__name__)

Kind = Literal["counter", "gauge", "histogram", "summary"]
Value = float | Histogram | tuple[int, float]
"""Of a summary: how many, and their sum."""


class Described(Struct, frozen=True):
    """One metric."""

    name: str
    kind: Kind
    tells: str
    labels: tuple[str, ...] = ()


class Sample(Struct, frozen=True, gc=False):
    """A value of a metric, with its labels in the order in which they are described."""

    name: str
    value: Value
    labels: tuple[str, ...] = ()


PROCESS = (
    Described("aureon_build_info", "gauge", "Always 1; which software runs, as a cell or a root", ("part", "version")),
    Described("aureon_broker_reachable", "gauge", "1 while the broker answers the question where the lanes end"),
    Described("aureon_turn_age_seconds", "gauge", "How long ago the part had its last turn that waits longest for one"),
    Described("aureon_scrape_errors_total", "counter", "Parts of a scrape that could not be told"),
)
CELL = (
    # decisions
    Described("aureon_decisions_total", "counter", "Winning decisions, as read back", ("topic", "kind")),
    Described("aureon_forced_total", "counter", "Of the converged, those whose rounds or budget were over", ("topic",)),
    Described("aureon_decision_seconds", "histogram", "From handing a message out to its decision"),
    Described("aureon_calls_total", "counter", "Requests to models in decided rounds, further tries too", ("topic",)),
    Described("aureon_tokens_total", "counter", "Tokens in decided rounds, input and output", ("topic",)),
    Described("aureon_cost_total", "counter", "Money in decided rounds, in the currency of the prices", ("topic",)),
    Described("aureon_rounds_under_way", "gauge", "Rounds whose calls are not all answered"),
    # lanes
    Described("aureon_lanes", "gauge", "Lanes of the cluster"),
    Described("aureon_lanes_held", "gauge", "Lanes that are this cell's"),
    Described("aureon_lanes_open", "gauge", "Of these, the ones that read their inputs"),
    Described("aureon_lane_messages_under_way", "gauge", "Messages handed out and undecided", ("lane",)),
    Described("aureon_lane_duplicates_total", "counter", "Messages that were dropped as duplicates", ("lane",)),
    Described("aureon_lane_log_position", "gauge", "First entry of the log that the lane has not read", ("lane",)),
    Described("aureon_lane_log_lag_entries", "gauge", "Entries of the log behind that position", ("lane",)),
    Described("aureon_lane_low_water", "gauge", "Offset of the first message without a decision", ("lane", "input")),
    Described("aureon_lane_waiting_messages", "gauge", "Messages from the low-water to the end", ("lane", "input")),
    Described("aureon_lane_window_messages", "gauge", "Of these, the ones that were read", ("lane", "input")),
    Described("aureon_lane_window_bytes", "gauge", "Their size", ("lane", "input")),
    # nodes
    Described("aureon_node_calls_total", "counter", "Tries of calls: answered, failed, timed_out", ("node", "outcome")),
    Described("aureon_node_call_seconds", "histogram", "How long those took that were answered", ("node",)),
    Described("aureon_node_health", "gauge", "1 at what it is: healthy, degraded, unhealthy", ("node", "health")),
    Described("aureon_node_active_calls", "gauge", "Calls that have a seat", ("node",)),
    Described("aureon_node_queued_calls", "gauge", "Calls that wait for one", ("node",)),
    Described("aureon_node_call_limit", "gauge", "Seats as of now; fewer while latency is raised", ("node",)),
    Described("aureon_node_breaker_open", "gauge", "1 while a model is not asked, since it failed", ("node", "model")),
    # ledger
    Described("aureon_ledger_bytes", "gauge", "Size of the call ledger on disk"),
    Described("aureon_ledger_limit_bytes", "gauge", "Beyond it the oldest calls are forgotten (AUREON_LEDGER_BYTES)"),
    Described("aureon_ledger_entries", "gauge", "Group commits that are kept"),
    Described("aureon_ledger_reused_total", "counter", "Finished calls of lives before, not asked again"),
    Described("aureon_ledger_repeated_total", "counter", "Calls in flight at a kill, asked again"),
    # lake
    Described("aureon_lake_commits_total", "counter", "Commits to the lake", ("table",)),
    Described("aureon_lake_rows_total", "counter", "Rows that they added", ("table",)),
    Described("aureon_lake_commit_seconds", "summary", "How long the commits of an epoch took, all tables together"),
    Described("aureon_lake_last_commit_timestamp_seconds", "gauge", "When the last one was through; 0 for never"),
    Described("aureon_gate_judged_total", "counter", "Records that the quality gate has judged"),
    Described("aureon_gate_refused_total", "counter", "Of these, the ones that became dead letters"),
    # budgets
    Described("aureon_day_spent_calls", "gauge", "Calls of today (UTC) against the day's budget, by this cell"),
    Described("aureon_day_spent_tokens", "gauge", "Tokens, likewise"),
    Described("aureon_day_spent_money", "gauge", "Money, likewise"),
    Described("aureon_day_limit_calls", "gauge", "What the lanes of this cell may spend in a day; absent: no limit"),
    Described("aureon_day_limit_tokens", "gauge", "Tokens, likewise"),
    Described("aureon_day_limit_money", "gauge", "Money, likewise"),
    # traces
    Described("aureon_traced_decisions_total", "counter", "Decisions sent as spans: sent, dropped", ("outcome",)),
    # producer
    Described("aureon_producer_queue_messages", "gauge", "Messages to Kafka that are not acknowledged yet"),
)
ROOT = (
    Described("aureon_root_cells", "gauge", "Cells that were heard of in the last hour: heard, silent", ("state",)),
    Described("aureon_root_nodes", "gauge", "Nodes: well in some cell, or unhealthy in all", ("state",)),
    Described("aureon_root_quarantines", "gauge", "Nodes kept out of a topic: quarantined, probation", ("stage",)),
    Described("aureon_root_topics_dying", "gauge", "Topics whose tasks mostly end as dead letters of late"),
    Described("aureon_root_alerts_total", "counter", "Alerts, as `supervision` has them", ("kind",)),
)
METRICS: Mapping[str, Described] = {each.name: each for each in (*PROCESS, *CELL, *ROOT)}

Part = Callable[[], Iterable[Sample]]
"""Tells what there is to tell of one part of the process, and nothing where that is not there yet."""


class Scrape(Collector):
    """Asks the parts of a process when a scraper comes; one that fails leaves the others.

    Args:
        parts: whatever they raise is logged and counted.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._errors = 0

    def collect(self) -> Iterator[Metric]:
        """All metrics of which there is a value."""
        by_name: dict[str, list[Sample]] = {}
        for part in self._parts:
            try:
                told = list(part())
            except Exception:
                log.exception("a part of the metrics")
                self._errors += 1
            else:
                for sample in told:
                    by_name.setdefault(sample.name, []).append(sample)
        by_name["aureon_scrape_errors_total"] = [Sample("aureon_scrape_errors_total", self._errors)]
        for name, samples in by_name.items():
            yield _family(METRICS[name], samples)


def _family(metric: Described, samples: Iterable[Sample]) -> Metric:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.tells, labels=metric.labels)
        for sample in samples:
            if isinstance(sample.value, Histogram):
                histogram.add_metric(sample.labels, _buckets(sample.value), sample.value.total_s)
        return histogram
    if metric.kind == "summary":
        summary = SummaryMetricFamily(metric.name, metric.tells, labels=metric.labels)
        for sample in samples:
            if isinstance(sample.value, tuple):
                summary.add_metric(sample.labels, *sample.value)
        return summary
    family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    single = family(metric.name, metric.tells, labels=metric.labels)
    for sample in samples:
        if isinstance(sample.value, float | int):
            single.add_metric(sample.labels, sample.value)
    return single


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    reached, buckets = 0, []
    for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], list(histogram.counts), strict=True):
        reached += count
        buckets.append((bound, float(reached)))
    return buckets
