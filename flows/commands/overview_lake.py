"""How the cluster fared within a span of time, by the lake: throughput, convergence, and what the root noted."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import duckdb
import msgspec
from msgspec import Struct

from schemas.supervision import Alert, CellState, Quarantine

MAX_TOPICS = 100
"""Told one by one, those with the most rounds first."""
MAX_ALERTS = 30
MAX_LATEST = 20
SERIES = 6
"""Topics that a throughput tells apart; the others are one."""
NOTED_WITHIN_S = 7 * 86400.0
"""Older notes of the root are not looked for."""
ROOT_SILENT_AFTER_S = 180.0
"""It notes every minute what it knows."""
OTHERS = "(others)"


class Span(NamedTuple):
    """How far back the lake is asked for, and in which steps, in seconds; without either: all of it, in some sixty."""

    back_s: float | None
    step_s: float | None


SPANS = {
    "10m": Span(600.0, 10.0),
    "1h": Span(3600.0, 60.0),
    "24h": Span(86400.0, 1800.0),
    "all": Span(None, None),
}
ALL_OF_IT = "all"
STEPS = 60


class TopicView(Struct, frozen=True):
    """The rounds of one topic that were decided within a span."""

    topic: str
    decided: int
    last_minute: int
    """Of these, as far as the lake has them by now."""
    converged: int
    forced: int
    """Of the converged."""
    dead: int
    cancelled: int
    calls: int
    cost: float


class RoundView(Struct, frozen=True):
    """All rounds of one number that were decided within a span."""

    round: int
    """From 1 on."""
    decided: int
    converged: int
    forced: int
    dead: int
    share: float
    """Of those decided, the ones that converged; 0 to 1."""
    by_then: float
    """Of all that converged within the span, those that had by this round; 0 to 1."""


class Throughput(Struct, frozen=True):
    """Rounds decided over time."""

    since: float
    """When the first step begins, in seconds since the epoch."""
    step_s: float
    topics: list[str]
    """Those with the most, and the others as one."""
    counts: list[list[int]]
    """Of each topic, by step."""


class Latest(Struct, frozen=True):
    """A round that was decided of late."""

    topic: str
    logical_id: str
    round_index: int
    kind: str
    at: float
    """Seconds since the epoch."""


class Affinity(Struct, frozen=True):
    """How well a node does on a topic."""

    node: str
    topic: str
    quality: float
    """The share of its answers that was right, 0 to 1."""
    outcomes: float
    """What that rests on; what was long ago counts less."""


class Notes(Struct, frozen=True, kw_only=True):
    """What the supervision root noted last."""

    noted_at: float | None = None
    """Seconds since the epoch; None where there is no note of the last week."""
    silent: bool = False
    """It should have noted something since."""
    cells: list[CellState] = []
    quarantines: list[Quarantine] = []
    affinities: list[Affinity] = []
    dying: list[str] = []
    """Topics whose tasks mostly end as dead letters of late."""
    alerts: list[Alert] = []
    """The newest first."""


class Lake(Struct, frozen=True, kw_only=True):
    """How the cluster fared within a span, by the lake."""

    at: float
    """Seconds since the epoch."""
    lake: str
    error: str | None = None
    """With it, all else is as it was when it could be read last."""
    topics: list[TopicView] = []
    left_out: int = 0
    """Further topics."""
    rounds: list[RoundView] = []
    throughput: Throughput | None = None
    latest: list[Latest] = []
    notes: Notes = Notes()


class _Counted(NamedTuple):
    """Of one topic and one round index: a row of `_COUNTS`."""

    topic: str
    round_index: int
    decided: int
    last_minute: int
    converged: int
    forced: int
    dead: int
    cancelled: int
    calls: int
    cost: float
    first_at: float


_COUNTS = """
SELECT
    topic, round_index, count(*),
    count(*) FILTER (decided_at >= to_timestamp($minute)),
    count(*) FILTER (kind = 'converged'),
    count(*) FILTER (kind = 'converged' AND forced),
    count(*) FILTER (kind = 'dead'),
    count(*) FILTER (kind = 'cancelled'),
    coalesce(sum(calls), 0)::BIGINT, coalesce(sum(cost), 0)::DOUBLE, epoch(min(decided_at))
FROM outcomes WHERE kind <> 'moved' AND decided_at >= to_timestamp($since) GROUP BY topic, round_index
"""
_OVER_TIME = """
SELECT topic, greatest(0, floor((epoch(decided_at) - $since) / $step))::BIGINT, count(*)
FROM stored.rounds WHERE kind <> 'moved' AND decided_at >= to_timestamp($since) GROUP BY ALL
"""
_LATEST = """
SELECT topic, logical_id, round_index, kind, epoch(decided_at)
FROM outcomes WHERE kind <> 'moved' AND decided_at >= to_timestamp($since)
ORDER BY decided_at DESC, lane, decision_offset DESC LIMIT $limit
"""
_NOTED = """
SELECT epoch(noted_at), kind, subject, topic, state, detail FROM supervision
WHERE number = (SELECT max(number) FROM supervision WHERE number > $since) AND kind <> 'alert' AND kind <> 'node'
"""
_ALERTS = """
SELECT detail FROM supervision WHERE kind = 'alert' AND number > $since ORDER BY number DESC LIMIT $limit
"""


def topics_of(counted: Sequence[_Counted]) -> list[TopicView]:
    """Add the rounds of each topic up; the one with the most comes first."""
    by_topic: dict[str, list[_Counted]] = defaultdict(list)
    for row in counted:
        by_topic[row.topic].append(row)
    names = TopicView.__struct_fields__[1:]
    topics = [TopicView(t, *(sum(getattr(r, n) for r in rows) for n in names)) for t, rows in by_topic.items()]
    return sorted(topics, key=lambda t: (-t.decided, t.topic))


def rounds_of(counted: Sequence[_Counted]) -> list[RoundView]:
    """Tell how far tasks converged in their first round, the second, and so on; messages that are no tasks left out."""
    by_index: dict[int, list[_Counted]] = defaultdict(list)
    for row in counted:
        if row.topic:
            by_index[row.round_index].append(row)
    in_all = sum(row.converged for row in counted)
    found, so_far = [], 0
    for index, rows in sorted(by_index.items()):
        decided, converged = sum(r.decided for r in rows), sum(r.converged for r in rows)
        so_far += converged
        found.append(
            RoundView(
                index + 1,
                decided,
                converged,
                sum(r.forced for r in rows),
                sum(r.dead for r in rows),
                converged / decided,
                so_far / in_all if in_all else 0.0,
            )
        )
    return found


def steps_of(span: Span, first_at: float | None, now: float) -> tuple[float, float]:
    """When the first step of a throughput begins, in seconds since the epoch, and how long each is, in seconds.

    Args:
        span: what is asked for.
        first_at: when the first round was decided; None where there is none.
        now: seconds since the epoch.
    """
    if span.back_s is not None and span.step_s is not None:
        return math.floor((now - span.back_s) / span.step_s + 1) * span.step_s, span.step_s
    since = now if first_at is None else min(first_at, now)
    step = max(1.0, math.ceil((now - since) / (STEPS - 1)))
    return math.floor(since / step) * step, step


def throughput_of(rows: Iterable[tuple[str, int, int]], since: float, step_s: float, now: float) -> Throughput:
    """Make a series of each topic.

    Args:
        rows: topic, number of the step, rounds decided in it.
        since: when the first step begins, in seconds since the epoch.
        step_s: how long each is, in seconds.
        now: in the last of them.
    """
    steps = int((now - since) // step_s) + 1
    of_topic: dict[str, list[int]] = defaultdict(lambda: [0] * steps)
    for topic, step, count in rows:
        of_topic[topic][min(step, steps - 1)] += count  # other machines' clocks may be ahead
    most = sorted(of_topic, key=lambda t: (-sum(of_topic[t]), t))
    shown, others = (most, []) if len(most) <= SERIES else (most[: SERIES - 1], most[SERIES - 1 :])
    counts = [of_topic[t] for t in shown]
    if others:
        counts.append([sum(column) for column in zip(*(of_topic[t] for t in others), strict=True)])
    return Throughput(since, step_s, shown + [OTHERS] * bool(others), counts)


def notes_of(rows: Iterable[tuple[float, str, str, str, str, str]], alerts: Iterable[str], now: float) -> Notes:
    """Read what the root noted at its last look, and its alerts.

    Args:
        rows: time, kind, subject, topic, state and detail; all of one look.
        alerts: details, the newest first.
        now: seconds since the epoch.
    """
    noted_at: float | None = None
    cells, quarantines, affinities, dying = [], [], [], []
    for at, kind, subject, topic, state, detail in rows:
        noted_at = at
        if kind == "cell":
            cells.append(msgspec.json.decode(detail, type=CellState))
        elif kind == "quarantine":
            quarantines.append(msgspec.json.decode(detail, type=Quarantine))
        elif kind == "affinity":
            fared = msgspec.json.decode(detail, type=dict[str, float])
            affinities.append(Affinity(subject, topic, fared["quality"], fared["outcomes"]))
        elif state:
            dying.append(topic)
    return Notes(
        noted_at=noted_at,
        silent=noted_at is not None and now - noted_at > ROOT_SILENT_AFTER_S,
        cells=cells,
        quarantines=sorted(quarantines, key=lambda q: (q.node, q.topic)),
        affinities=sorted(affinities, key=lambda a: (a.topic, a.node)),
        dying=sorted(dying),
        alerts=[msgspec.json.decode(alert, type=Alert) for alert in alerts],
    )


def lake_within(span: Span, lake: duckdb.DuckDBPyConnection, name: str, now: float) -> Lake:
    """Ask the lake.

    Args:
        span: how far back.
        lake: from `one_lake.connect`.
        name: what it is called.
        now: seconds since the epoch.
    """
    begin = 0.0 if span.back_s is None else now - span.back_s
    rows = lake.execute(_COUNTS, {"since": begin, "minute": now - 60.0}).fetchall()
    counted = [_Counted(*row) for row in rows]
    since, step = steps_of(span, min((c.first_at for c in counted), default=None), now)
    over_time = lake.execute(_OVER_TIME, {"since": since, "step": step}).fetchall()
    latest = lake.execute(_LATEST, {"since": begin, "limit": MAX_LATEST}).fetchall()
    noted_since = int((now - NOTED_WITHIN_S) * 1000)
    noted = lake.execute(_NOTED, {"since": noted_since}).fetchall()
    alerts = lake.execute(_ALERTS, {"since": noted_since, "limit": MAX_ALERTS}).fetchall()
    topics = topics_of(counted)
    return Lake(
        at=now,
        lake=name,
        topics=topics[:MAX_TOPICS],
        left_out=max(0, len(topics) - MAX_TOPICS),
        rounds=rounds_of(counted),
        throughput=throughput_of(over_time, since, step, now),
        latest=[Latest(*row) for row in latest],
        notes=notes_of(noted, (detail for (detail,) in alerts), now),
    )
