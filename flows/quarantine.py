"""Quarantine: which nodes are kept out of a topic because their answers are noise. Pure.

Not who fails or is slow, which each cell sees by itself, but who answers wrong where others answer right: of its last
outcomes far fewer were right than of the best other node's on the topic. In quarantine it is asked in a share of the
rounds; when it does as well as others again it is on probation, asked as any other, and after some outcomes more it is
free. A topic that only one node serves, or that all do badly on, keeps its nodes.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from flows.counts import TopicCounts
from schemas.supervision import Quarantine, Stage

FEWEST = 8.0
"""Outcomes that a judgement rests on, of about fifteen that are remembered."""
NOISY = 0.5
"""Who is right less than so often as the best other node, beyond doubt, is noisy."""
FIT = 0.7
"""Who is right so often again, as far as it can be told, is fit."""
PROBATION_ROUNDS = 50
"""Rounds of the topic that taught anything, for which probation lasts."""


class Fared(NamedTuple):
    """Answers of a node on a topic, of late, by what is known of them."""

    right: float
    wrong: float

    @property
    def outcomes(self) -> float:
        """How many are known of."""
        return self.right + self.wrong

    @property
    def quality(self) -> float:
        """The share that was right."""
        return self.right / self.outcomes if self.outcomes else 0.0

    @property
    def doubt(self) -> float:
        """How far the share may be off: the standard deviation of its Beta distribution, uniform before (Laplace)."""
        a, b = self.right + 1.0, self.wrong + 1.0
        return math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1.0)))


class Kept(Struct):
    """What is remembered of one node on one topic while it is not free."""

    order: Quarantine
    taught: int
    """Rounds of the topic that had taught when it was given."""


def fared_of(counts: TopicCounts) -> dict[str, Fared]:
    """Add up the models of each node."""
    found: dict[str, Fared] = {}
    for model in counts.models:
        so_far = found.get(model.node, Fared(0.0, 0.0))
        found[model.node] = Fared(so_far.right + model.right, so_far.wrong + model.wrong)
    return found


def judge(counts: TopicCounts, kept: Mapping[str, Kept], now: float) -> list[Quarantine]:
    """Say which nodes of a topic change their stage.

    Args:
        counts: what is known of the topic.
        kept: of this topic, by node, those that are not free.
        now: seconds since the epoch.
    """
    fared = fared_of(counts)
    free = {n: f for n, f in fared.items() if n not in kept or kept[n].order.stage is not Stage.QUARANTINED}
    orders = []
    for node, own in fared.items():
        best = max((f.quality for n, f in free.items() if n != node and f.outcomes >= FEWEST), default=None)
        if best is None:
            continue
        known = kept.get(node)
        stage = known.order.stage if known is not None else Stage.FREE
        told = f"right in {own.quality:.0%} of its last answers, where the best other is in {best:.0%}"
        new: Stage | None = None
        if stage is Stage.QUARANTINED:
            if own.quality >= FIT * best:
                new = Stage.PROBATION
        elif own.outcomes >= FEWEST and own.quality + own.doubt < NOISY * best:
            new = Stage.QUARANTINED
        elif stage is Stage.PROBATION and known is not None and counts.taught - known.taught >= PROBATION_ROUNDS:
            new = Stage.FREE
        if new is not None:
            orders.append(Quarantine(node=node, topic=counts.topic, stage=new, why=told, since=now))
    return orders
