"""What operators see of the supervision root: its metrics, whether it is alive, whether it is ready."""

import time
from collections import Counter
from collections.abc import Iterator

from connectors.lane_ends import LaneEnds, Place
from connectors.topics import RESULTS
from flows.metrics import Sample
from flows.root_parts import RootParts
from schemas.software import software_version
from schemas.supervision import Stage

STALLED_AFTER_S = 60.0


class RootStatus:
    """Looks at a root from outside.

    Args:
        parts: of the root that is looked at.
    """

    def __init__(self, parts: RootParts) -> None:
        self._parts = parts
        self._began = time.monotonic()
        self.ends = LaneEnds(self._config, self._partitions)
        self.parts = (self._process, self._known, self._alerts)

    def ails(self) -> str:
        """Why the root is not healthy; empty where it is. One that waits for its broker is."""
        age_s = self._turn_age_s()
        return f"it had no turn for {age_s:.0f} s" if age_s > STALLED_AFTER_S else ""

    def lacks(self) -> str:
        """Why the root is not ready; empty where it is."""
        if not self._parts.turned_at:
            return "it is starting"
        if self._parts.stopping.asked:
            return "it is stopping"
        return f"the broker does not answer: {self.ends.lacks}" if self.ends.lacks else ""

    def _turn_age_s(self) -> float:
        return time.monotonic() - max(self._parts.turned_at, self._parts.waited_at, self._began)

    def _config(self) -> dict[str, object] | None:
        return self._parts.config if self._parts.turned_at else None

    @staticmethod
    def _partitions() -> list[Place]:
        return [(RESULTS, 0)]

    def _process(self) -> Iterator[Sample]:
        yield Sample("aureon_build_info", 1, ("root", software_version()))
        yield Sample("aureon_broker_reachable", int(not self.ends.lacks))
        yield Sample("aureon_turn_age_seconds", round(self._turn_age_s(), 3))

    def _known(self) -> Iterator[Sample]:
        root = self._parts.root_now
        if root is None:
            return
        registry = root.registry
        for name, known in (
            ("aureon_root_cells", (("heard", "silent"), registry.known_cells)),
            ("aureon_root_nodes", (("well", "unhealthy"), registry.known_nodes)),
        ):
            (good, bad), each = known
            count = Counter(good if one.healthy else bad for one in tuple(each.values()))
            for state in (good, bad):
                yield Sample(name, count[state], (state,))
        stages = Counter(kept.order.stage for kept in tuple(root.kept.values()))
        for stage in (Stage.QUARANTINED, Stage.PROBATION):
            yield Sample("aureon_root_quarantines", stages[stage], (stage.value,))
        yield Sample("aureon_root_topics_dying", sum(topic.dying for topic in tuple(root.topics.values())))

    def _alerts(self) -> Iterator[Sample]:
        root = self._parts.root_now
        if root is not None:
            for kind, count in dict(root.alerted).items():
                yield Sample("aureon_root_alerts_total", count, (kind,))
