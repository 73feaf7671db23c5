"""The faults of the loss audit: how each begins, how long it lasts, how it ends."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from msgspec import Struct

from tests.apache_kafka import ApacheKafka
from tests.chaos.cluster import Cluster, Process
from tests.chaos.load import Load
from tests.chaos.models import Orders
from tests.chaos.nodes import POISON

GONE_S = 20.0
"""So long a cell that is gone is not started again: by then others have its lanes."""

Fault = Callable[[Cluster, Load, random.Random], AbstractContextManager["Hit"]]
"""Begins when it is entered, and says whom it hits; ends when it is left."""


class Hit(Struct, frozen=True):
    """What a fault has hit."""

    whom: str
    lanes: tuple[int, ...] = ()
    """Of a cell that was killed."""
    at: float = 0.0
    """When it was, in seconds since the epoch."""


class Kind(Struct, frozen=True):
    """One kind of fault."""

    name: str
    fault: Fault
    lasts_s: tuple[float, float] = (0.0, 0.0)
    apache: bool = False
    """Only where the broker keeps what it acknowledged when it is killed, and notices that a cell is gone."""
    rights: bool = False
    """Only where a namespace or a disk can be made."""


def _kill(choose: Callable[[Cluster, random.Random], Process]) -> Fault:
    @contextmanager
    def fault(cluster: Cluster, _load: Load, rng: random.Random) -> Iterator[Hit]:
        process = choose(cluster, rng)
        process.kill()
        yield Hit(process.name)

    return fault


def _kill_cell(away_s: float) -> Fault:
    @contextmanager
    def fault(cluster: Cluster, _load: Load, rng: random.Random) -> Iterator[Hit]:
        cell = _a_cell(cluster, rng)
        lanes = cluster.lanes_of(cell)
        killed_at = time.time()
        cell.kill(away_s)
        yield Hit(cell.name, lanes, killed_at)

    return fault


def _freeze(choose: Callable[[Cluster, random.Random], Process]) -> Fault:
    @contextmanager
    def fault(cluster: Cluster, _load: Load, rng: random.Random) -> Iterator[Hit]:
        process = choose(cluster, rng)
        process.signal(signal.SIGSTOP)
        try:
            yield Hit(process.name)
        finally:
            process.signal(signal.SIGCONT)

    return fault


def _a_cell(cluster: Cluster, rng: random.Random) -> Process:
    return rng.choice(cluster.cells)


def _the_root(cluster: Cluster, _rng: random.Random) -> Process:
    return cluster.root


def _the_models(cluster: Cluster, _rng: random.Random) -> Process:
    return cluster.models


@contextmanager
def broker_killed(cluster: Cluster, _load: Load, _rng: random.Random) -> Iterator[Hit]:
    """Kill -9, and started again at once."""
    cluster.broker.kill()
    cluster.broker.start()
    yield Hit(cluster.broker.name)


@contextmanager
def broker_frozen(cluster: Cluster, _load: Load, _rng: random.Random) -> Iterator[Hit]:
    """It keeps all connections, and says nothing."""
    broker = cluster.broker
    assert isinstance(broker, ApacheKafka)
    broker.freeze()
    try:
        yield Hit(broker.name)
    finally:
        broker.thaw()


@contextmanager
def broker_down(cluster: Cluster, _load: Load, _rng: random.Random) -> Iterator[Hit]:
    """Stopped in order, and away for a while."""
    cluster.broker.stop()
    try:
        yield Hit(cluster.broker.name)
    finally:
        cluster.broker.start()


@contextmanager
def cell_cut_off(cluster: Cluster, _load: Load, _rng: random.Random) -> Iterator[Hit]:
    """It lives, and reaches nobody."""
    cluster.cut(off=True)
    try:
        yield Hit(cluster.cells[-1].name)
    finally:
        cluster.cut(off=False)


@contextmanager
def disk_full(cluster: Cluster, _load: Load, _rng: random.Random) -> Iterator[Hit]:
    """Its state folder takes nothing more."""
    cluster.fill_disk()
    try:
        yield Hit(cluster.cells[0].name)
    finally:
        cluster.free_disk()


@contextmanager
def clock_jumps(cluster: Cluster, _load: Load, rng: random.Random) -> Iterator[Hit]:
    """By up to an hour, forth or back; and then back to what it should be."""
    cluster.clock.write_text(f"{rng.choice([-3600, -60, 60, 3600]):+d}\n")
    try:
        yield Hit(cluster.cells[1].name)
    finally:
        cluster.clock.write_text("+0\n")


@contextmanager
def task_is_poison(_cluster: Cluster, load: Load, _rng: random.Random) -> Iterator[Hit]:
    """It takes down every process that works on it, until it is dead."""
    yield Hit(load.send_one(POISON))


@contextmanager
def retry_storm(cluster: Cluster, _load: Load, _rng: random.Random) -> Iterator[Hit]:
    """Most calls fail."""
    cluster.order(Orders(failing=0.8))
    try:
        yield Hit("80 % of calls")
    finally:
        cluster.order(Orders())


@contextmanager
def topic_is_hot(_cluster: Cluster, load: Load, _rng: random.Random) -> Iterator[Hit]:
    """Nearly all tasks are of one topic."""
    load.hot = True
    try:
        yield Hit("topic-0")
    finally:
        load.hot = False


@contextmanager
def node_lies(cluster: Cluster, _load: Load, rng: random.Random) -> Iterator[Hit]:
    """It answers at once, and wrong."""
    liar = rng.choice(["b", "c"])
    cluster.order(Orders(liars=[liar]))
    try:
        yield Hit(liar)
    finally:
        cluster.order(Orders())


KINDS = (
    Kind("cell killed", _kill_cell(0.0)),
    Kind("cell gone", _kill_cell(GONE_S), (GONE_S, GONE_S), apache=True),
    Kind("cell stopped", _freeze(_a_cell), (2.0, 12.0)),
    Kind("root killed", _kill(_the_root)),
    Kind("root stopped", _freeze(_the_root), (2.0, 6.0)),
    Kind("models killed", _kill(_the_models)),
    Kind("models stopped", _freeze(_the_models), (2.0, 6.0)),
    Kind("broker killed", broker_killed, apache=True),
    Kind("broker stopped", broker_frozen, (1.0, 4.0), apache=True),
    Kind("broker down", broker_down, (30.0, 30.0), apache=True),
    Kind("cell cut off", cell_cut_off, (4.0, 14.0), rights=True),
    Kind("disk full", disk_full, (4.0, 8.0), rights=True),
    Kind("clock jumps", clock_jumps, (4.0, 8.0)),
    Kind("poison", task_is_poison),
    Kind("retry storm", retry_storm, (4.0, 8.0)),
    Kind("hot topic", topic_is_hot, (5.0, 10.0)),
    Kind("node lies", node_lies, (4.0, 10.0)),
)


def schedule(rng: random.Random, kinds: tuple[Kind, ...], each: int, more: int) -> list[Kind]:
    """So many of every kind, and more at random, in any order."""
    plan = [kind for kind in kinds for _ in range(each)]
    plan += rng.choices(kinds, k=more)
    rng.shuffle(plan)
    return plan


def possible(*, apache: bool, rights: bool) -> tuple[Kind, ...]:
    """Those that can be had here."""
    return tuple([kind for kind in KINDS if (apache or not kind.apache) and (rights or not kind.rights)])


def last(kind: Kind, rng: random.Random) -> None:
    """Wait for as long as one of a kind lasts."""
    time.sleep(rng.uniform(*kind.lasts_s))
