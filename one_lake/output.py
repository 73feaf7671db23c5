"""The lake as the sink of a flow."""

from collections.abc import Callable

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from msgspec import Struct

from one_lake.sink import LakeWriter
from schemas.errors import tells_errors
from schemas.head import Head
from schemas.one import Row


class LaneRows(Struct, frozen=True, gc=False):
    """Rows of one lane, in the order of their decisions."""

    lane: int
    rows: list[Row]
    begins: bool = False
    """The lane comes to this process; others may have written of it since it was last here."""


@tells_errors
class OneSink(FixedPartitionedSink[LaneRows, None]):
    """Writes rows into ONE.

    Unit of parallelism: the cell, so that all its lanes share one commit a table. Guarantee: at the end of an epoch
    all its rows are committed, each once, or the cell stops with an error. Replay: rows come again and are dropped by
    their lane and decision offset.

    Args:
        writer: opens the lake, when the first row comes.
        publish: told of each new head of the lake.
    """

    PART = "one"

    def __init__(self, writer: Callable[[], LakeWriter], publish: Callable[[Head], None]) -> None:
        self._writer = writer
        self._publish = publish

    def list_parts(self) -> list[str]:
        """There is one."""
        return [self.PART]

    def part_fn(self, item_key: str) -> int:
        """All lanes go to the one partition."""
        del item_key
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "_OnePartition":
        """Open the lake."""
        del step_id, for_part, resume_state
        return _OnePartition(self._writer(), self._publish)


@tells_errors
class _OnePartition(StatefulSinkPartition[LaneRows, None]):
    def __init__(self, writer: LakeWriter, publish: Callable[[Head], None]) -> None:
        self._writer = writer
        self._publish = publish

    def write_batch(self, values: list[LaneRows]) -> None:
        """Stage rows."""
        for of_lane in values:
            if of_lane.begins:
                self._writer.begin(of_lane.lane)
            self._writer.add(of_lane.rows)

    def snapshot(self) -> None:
        """The end of an epoch: commit."""
        head = self._writer.flush()
        if head is not None:
            self._publish(head)

    def close(self) -> None:
        """Let go of the lake; nothing is committed here, since an error ends here too."""
        self._writer.close()
