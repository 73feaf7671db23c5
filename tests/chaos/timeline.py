"""What happened when: faults, throughput and backlog by the second, how long each recovery took, and a page of it."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from html import escape

from msgspec import Struct

BACK = 0.8
"""Of the throughput before a fault: with so much it has recovered."""
BEFORE_S = 10
SEEN_WITHIN_S = 0.5
"""A decision that was made is on the log so soon, and whoever reads it has seen it."""
WIDTH, HEIGHT = 1400, 260


class Happened(Struct):
    """One fault."""

    kind: str
    whom: str
    began: float
    """Seconds since the timeline began."""
    ended: float
    lanes: tuple[int, ...] = ()
    """Of the cell that was killed."""
    recovery_s: float | None = None
    """From its end until throughput was back; None if it never was before the next fault."""
    pause_s: float | None = None
    """Until the last of its lanes had a decision again; None if one had none any more."""
    others: float | None = None
    """The worst second of all other lanes while the cell is away, and as it comes back if it is started again at once;
    as a share of their median before."""
    others_back: float | None = None
    """The same once a cell is started again of which others have had the lanes: some go to it, of any cell."""

    def __str__(self) -> str:
        """What came of it."""
        text = "not back" if self.recovery_s is None else f"back after {self.recovery_s:.1f} s"
        if not self.lanes:
            return text
        pause = "not yet on again" if self.pause_s is None else f"on again after {self.pause_s:.1f} s"
        others = "" if self.others is None else f"; worst second of the others {self.others:.2f}"
        back = "" if self.others_back is None else f", when it was back {self.others_back:.2f}"
        return f"{text}; its lanes {pause}{others}{back}"


class Timeline:
    """Collects, and tells."""

    def __init__(self) -> None:
        self.began = time.time()
        self.faults: list[Happened] = []
        self.decided: Counter[int] = Counter()
        """By second."""
        self.by_lane: dict[int, list[float]] = {}
        self.waiting: dict[int, int] = {}
        """By second, messages without a decision."""

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return time.time() - self.began

    def note_decision(self, lane: int, at: float) -> None:
        """A decision was made, by the clock of the machine."""
        second = at - self.began
        if second >= 0:
            self.decided[int(second)] += 1
            self.by_lane.setdefault(lane, []).append(second)

    def note_waiting(self, count: int) -> None:
        """So many messages have no decision now."""
        self.waiting[int(self.now)] = count

    def judge(self) -> None:
        """Say of every fault what came of it."""
        for place in range(len(self.faults)):
            self.judge_one(place)

    def judge_one(self, place: int) -> Happened:
        """Say of a fault how long recovery took; of a killed cell, how its lanes paused and what the others noticed."""
        fault = self.faults[place]
        until = self.faults[place + 1].began if place + 1 < len(self.faults) else max(self.decided, default=0)
        before = [self.decided[s] for s in range(max(0, int(fault.began) - BEFORE_S), int(fault.began))]
        usual = statistics.median(before) if before else 0.0
        first = int(fault.ended)
        back = next((s for s in range(first, max(int(until), first) + 1) if self.decided[s] >= BACK * usual), None)
        fault.recovery_s = None if back is None else max(0.0, back - fault.ended)
        if fault.lanes:
            self._judge_kill(fault, until)
        return fault

    def recoveries(self) -> list[float]:
        """How long it took after each fault, in seconds, until throughput was back, before the next one began."""
        return sorted(f.recovery_s for f in self.faults if f.recovery_s is not None)

    def _judge_kill(self, fault: Happened, until: float) -> None:
        pauses = [_pause(self.by_lane.get(lane, ()), fault.began) for lane in fault.lanes]
        fault.pause_s = None if None in pauses else max(p for p in pauses if p is not None)
        others = Counter(
            math.floor(at - fault.began)
            for lane, times in list(self.by_lane.items())
            if lane not in fault.lanes
            for at in times
            if -BEFORE_S <= at - fault.began < until - fault.began
        )
        usual = statistics.median(others[s] for s in range(-BEFORE_S + 1, 0))
        during = [others[s] for s in range(int(until - fault.began))]
        away = int(fault.ended - fault.began) or len(during)
        fault.others, fault.others_back = (
            min(some) / usual if usual and some else None for some in (during[:away], during[away:])
        )

    def longest_gap(self) -> float:
        """The longest time in which a lane had no decision, in seconds."""
        return max(
            (b - a for times in self.by_lane.values() for a, b in zip(sorted(times), sorted(times)[1:], strict=False)),
            default=0.0,
        )

    def page(self, title: str, table: str, more: str = "") -> str:
        """Draw it all in one picture, with more pictures below."""
        seconds = max([*self.decided, *self.waiting, 1])
        faults = "".join(
            f'<rect x="{WIDTH * f.began / seconds:.1f}" y="0" height="{HEIGHT}" '
            f'width="{max(2.0, WIDTH * (f.ended - f.began) / seconds):.1f}" class="fault">'
            f"<title>{escape(f.kind)}: {escape(f.whom)}, {f.began:.0f} s, {f}</title></rect>"
            for f in self.faults
        )
        decided = _line({s: self.decided[s] for s in range(seconds + 1)}, seconds)
        waiting = _line(self.waiting, seconds)
        most, backlog = max(self.decided.values(), default=0), max(self.waiting.values(), default=0)
        return f"""<!doctype html><meta charset="utf-8"><title>{escape(title)}</title>
<style>body{{font:14px system-ui;margin:2em}}svg{{background:#f6f6f6}}.fault{{fill:#c00;opacity:.18}}
polyline{{fill:none;stroke-width:1.5}}.decided{{stroke:#06c}}.waiting{{stroke:#e80}}</style>
<h1>{escape(title)}</h1>
<p><span style="color:#06c">decisions a second, up to {most:,}</span>;
<span style="color:#e80">messages without a decision, up to {backlog:,}</span>;
<span style="color:#c00">faults</span>, named where the pointer is</p>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%">{faults}
<polyline class="decided" points="{decided}"/><polyline class="waiting" points="{waiting}"/></svg>
<p>0 to {seconds} s</p>{more}<pre>{escape(table)}</pre>
"""


def _pause(times: Iterable[float], began: float) -> float | None:
    """From a moment to the next decision; None if there was none. What is seen at once was made before it."""
    after = min((at for at in times if at > began + SEEN_WITHIN_S), default=None)
    return None if after is None else after - began


def _line(values: dict[int, int], seconds: int) -> str:
    most = max(values.values(), default=0) or 1
    return " ".join(f"{WIDTH * s / seconds:.1f},{HEIGHT * (1 - 0.95 * values[s] / most):.1f}" for s in sorted(values))
