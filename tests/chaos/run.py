"""One loss audit: the cluster, the load and the faults, and what Kafka and the lake say afterwards."""

import contextlib
import itertools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

import one_lake
from one_lake import tables
from tests.chaos.audit import Audit, LogFollower, ReaderBeside, audit, undecided
from tests.chaos.cluster import LANES, Cluster, has_rights
from tests.chaos.faults import last, possible, schedule
from tests.chaos.load import Load, send_many
from tests.chaos.nodes import HISTORY
from tests.chaos.timeline import Happened, Timeline
from tests.chaos.vitals import Vitals

log = logging.getLogger(__name__)

WARM_UP_S = 10.0
"""So long every lane has decided something before the first fault, which is compared with that."""
BEGINS_WITHIN_S = 180.0
SETTLE_LIMIT_S = 300.0
HISTORY_LIMIT_S = 1800.0
LISTEN_EVERY_S = 0.05
"""To Kafka."""
LOOK_EVERY_S = 10.0
"""At the lake."""


class Result(Struct):
    """What came of it."""

    seed: int
    tasks: int
    audit: Audit
    vanished: int
    repeated_calls: int
    calls: int
    timeline: Timeline
    vitals: Vitals
    codes: list[int | None]
    """With what the cells ended."""

    @property
    def is_clean(self) -> bool:
        """Nothing lost, nothing doubled, nothing gone."""
        return not (self.audit.faults() or self.vanished or any(self.codes))

    def summary(self) -> dict[str, Any]:
        """The last line."""
        recoveries = self.timeline.recoveries()
        found = self.audit
        return {
            "seed": self.seed,
            "faults": len(self.timeline.faults),
            "tasks": self.tasks,
            "lost": found.lost + found.undecided + found.missing_rows,
            "duplicates": found.two_winners + found.two_records + found.wrong_records,
            "vanished": self.vanished,
            "calls": self.calls,
            "repeated_calls": self.repeated_calls,
            "longest_interruption_s": round(self.timeline.longest_gap(), 1),
            "recovery_p50_s": _quantile(recoveries, 0.5),
            "recovery_p99_s": _quantile(recoveries, 0.99),
            "not_back": len(self.timeline.faults) - len(recoveries),
            **self._kills(),
        }

    def _kills(self) -> dict[str, Any]:
        """What killed cells did to their lanes, and to those of the others."""
        found: dict[str, Any] = {}
        for kind, name in (("cell killed", "restarted"), ("cell gone", "gone")):
            hits = [f for f in self.timeline.faults if f.kind == kind and f.lanes]
            if hits:
                pauses = [f.pause_s for f in hits]
                known = sorted(p for p in pauses if p is not None)
                found |= {
                    f"{name}_pause_p50_s": _quantile(known, 0.5),
                    f"{name}_pause_longest_s": _quantile(known, 1.0) if None not in pauses else None,
                    f"{name}_others_worst_second": _least(f.others for f in hits),
                }
                if (back := _least(f.others_back for f in hits)) is not None:
                    found[f"{name}_others_worst_second_back"] = back
        return found

    def table(self) -> str:
        """By kind of fault, and what is wrong."""
        lines = [f"{'fault':<16} {'times':>5} {'recovery p50':>13} {'longest':>8} {'not back':>9}"]
        by_kind: dict[str, list[Happened]] = {}
        for fault in self.timeline.faults:
            by_kind.setdefault(fault.kind, []).append(fault)
        for kind, faults in sorted(by_kind.items()):
            times = sorted(f.recovery_s for f in faults if f.recovery_s is not None)
            shown = (f"{_quantile(times, 0.5)} s", f"{_quantile(times, 1.0)} s") if times else ("", "")
            lines.append(f"{kind:<16} {len(faults):>5} {shown[0]:>13} {shown[1]:>8} {len(faults) - len(times):>9}")
        lines += ["", *(f"{name:<24} {value}" for name, value in self.summary().items())]
        if any(self.codes):
            lines += ["", f"not every cell ended in order: {self.codes}"]
        lines += ["", *self.audit.examples[:20]]
        return "\n".join(lines)


def run(
    home: Path,
    kind: str,
    seed: int,
    *,
    each: int,
    more: int,
    rate: float,
    only: Collection[str] | None = None,
    at_least_s: float = 0.0,
    behind: int = 0,
    calm_s: tuple[float, float] = (3.0, 7.0),
    tell: Callable[[str], None] = lambda _text: None,
) -> Result:
    """Run one.

    Args:
        home: where the cluster lives.
        kind: of the broker.
        seed: of the schedule.
        each: faults of every kind.
        more: faults besides.
        rate: tasks a second.
        only: kinds of faults; by default all that can be had here.
        at_least_s: how long it is spread over.
        behind: tasks that are finished before it begins.
        calm_s: between the end of a fault and the next, at least and at most.
        tell: told what happens.
    """
    rng = random.Random(seed)
    cluster = Cluster(home, kind, rights=has_rights())
    kinds = possible(apache=kind == "apache", rights=cluster.rights)
    if only is not None:
        kinds = tuple([kind for kind in kinds if kind.name in only])
        assert kinds, f"none of {only} can be had here"
    plan = schedule(rng, kinds, each, more)
    with contextlib.ExitStack() as undo:
        cluster.start()
        undo.callback(_end, cluster)
        if behind:
            _finish(cluster, behind, tell)
        timeline = Timeline()
        load = Load(cluster.broker.brokers, LANES, rate, seed)
        watch = Watch(cluster, timeline)
        load.start()
        undo.callback(watch.close)
        watch.until_all_decide(BEGINS_WITHIN_S)
        time.sleep(WARM_UP_S)
        for number, fault in enumerate(plan):
            began = timeline.now
            with fault.fault(cluster, load, rng) as hit:
                tell(f"{began:7.1f} s  {number + 1}/{len(plan)}  {fault.name}: {hit.whom}")
                last(fault, rng)
            began = hit.at - timeline.began if hit.at else began
            timeline.faults.append(Happened(fault.name, hit.whom, began, timeline.now, hit.lanes))
            calm = rng.uniform(*calm_s)
            left = (at_least_s - timeline.now) / max(1, len(plan) - number)
            time.sleep(max(calm, left - fault.lasts_s[1]))
            tell(f"{'':10}  {timeline.judge_one(number)}")
        tasks = load.stop()
        tell(f"{timeline.now:7.1f} s  {tasks} tasks were sent; until all are decided …")
        watch.until_settled(SETTLE_LIMIT_S)
        codes = cluster.stop()
        watch.close()
        undo.pop_all()
    watch.finish()
    timeline.judge()
    found = audit(watch.follower, cluster.lake)
    calls, repeated = repeated_calls(cluster.answered, watch.follower)
    return Result(seed, tasks, found, watch.vanished, repeated, calls, timeline, watch.vitals, codes)


class Watch:
    """Looks at Kafka and the lake while it goes on."""

    def __init__(self, cluster: Cluster, timeline: Timeline) -> None:
        self.follower = LogFollower(cluster.broker.brokers, LANES, from_now=True)
        self.vanished = -1
        """Rows of the lake that a look had seen and a later one had not; known in the end."""
        self.vitals = Vitals()
        self._cluster = cluster
        self._reader = ReaderBeside(cluster.lake)
        self._timeline = timeline
        self._told = 0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def until_all_decide(self, limit_s: float) -> None:
        """Wait until every lane has decided something."""
        deadline = time.monotonic() + limit_s
        while len(self._timeline.by_lane) < LANES:
            assert time.monotonic() < deadline, f"of {LANES} lanes only {sorted(self._timeline.by_lane)} decide"
            time.sleep(0.1)

    def until_settled(self, limit_s: float) -> None:
        """Wait until every message is decided, and nothing new comes."""
        deadline = time.monotonic() + limit_s
        quiet = 0
        before = (-1, -1)
        while quiet < 3 and time.monotonic() < deadline:
            time.sleep(1.5)
            with self._lock:
                now = (len(self.follower.messages), len(self.follower.winners))
                quiet = quiet + 1 if now == before and not undecided(self.follower) else 0
            before = now

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join(30)
        self.follower.close()

    def finish(self) -> None:
        """Look at the lake once more, when all have written."""
        self.vanished = self._reader.finish()

    def _run(self) -> None:
        looked = 0.0
        while not self._over.wait(LISTEN_EVERY_S):
            try:
                with self._lock:
                    self.follower.poll()
                    self._tell()
            except Exception as error:  # noqa: BLE001 - it is looked at again
                log.warning("Kafka could not be read: %s: %s", type(error).__name__, error)
            if time.monotonic() - looked > LOOK_EVERY_S:
                self._reader.look()
                self.vitals.look(self._timeline.now, self._cluster.alive())
                looked = time.monotonic()

    def _tell(self) -> None:
        told = len(self.follower.winners)
        for name in itertools.islice(self.follower.winners, self._told, None):
            self._timeline.note_decision(name[0], self.follower.appended_at[name])
        self._told = told
        self._timeline.note_waiting(len(self.follower.messages) - told)


def _finish(cluster: Cluster, count: int, tell: Callable[[str], None]) -> None:
    """Have tasks finished, and their records in the lake."""
    began = time.monotonic()
    send_many(cluster.broker.brokers, LANES, HISTORY, count)
    tell(f"{count:,} tasks are to be finished first …")
    records = 0
    while records < count:
        assert time.monotonic() - began < HISTORY_LIMIT_S, f"{records:,} of {count:,} were finished in time"
        time.sleep(2.0)
        if tables.is_lake(cluster.lake):
            with one_lake.connect(cluster.lake) as db:
                ((records,),) = db.execute("SELECT count(*) FROM stored.records").fetchall()
    tell(f"… which took {time.monotonic() - began:.0f} s")


def _end(cluster: Cluster) -> None:
    with contextlib.suppress(Exception):
        cluster.stop()


def repeated_calls(answered: Path, follower: LogFollower) -> tuple[int, int]:
    """How many calls were answered, and how many of those no decision that counts rests on."""
    told = Counter(answered.read_text().splitlines())
    calls = sum(told.values())
    used = sum(
        candidate.status == "ok"
        for _, decision in follower.winners.values()
        if decision.result is not None
        for candidate in decision.result.candidates
    )
    return calls, calls - used


def _least(shares: Iterable[float | None]) -> float | None:
    return min((round(share, 2) for share in shares if share is not None), default=None)


def _quantile(values: list[float], share: float) -> float:
    """Of sorted values."""
    return round(values[min(len(values) - 1, int(share * len(values)))], 1) if values else 0.0
