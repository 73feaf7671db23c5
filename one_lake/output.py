"""The lake as the sink of a flow."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from msgspec import Struct

from connectors.told_errors import tells_errors
from one_lake.writer import LakeWriter
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

    Unit of parallelism: the cell, so that all its lanes share one commit a table. Guarantee: the rows of an epoch are
    committed while the next one goes on, each once, or the cell stops with an error; the writer tells which are there.
    The end of an epoch waits for the rows of the one before, so two epochs of them are held at most. Replay: rows come
    again and are dropped by their lane and decision offset.

    Args:
        writer: opens the lake when the first row comes, on a thread of its own.
        publish: told of each new head of the lake, on that thread.
        is_ending: the flow is about to end: no epoch is left to wait in.
    """

    PART = "one"

    def __init__(
        self, writer: Callable[[], LakeWriter], publish: Callable[[Head], None], is_ending: Callable[[], bool]
    ) -> None:
        self._writer = writer
        self._publish = publish
        self._is_ending = is_ending

    def list_parts(self) -> list[str]:
        """There is one."""
        return [self.PART]

    def part_fn(self, item_key: str) -> int:
        """All lanes go to the one partition."""
        del item_key
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "_OnePartition":
        """Have the lake opened."""
        del step_id, for_part, resume_state
        return _OnePartition(self._writer, self._publish, self._is_ending)


@tells_errors
class _OnePartition(StatefulSinkPartition[LaneRows, None]):
    def __init__(
        self, writer: Callable[[], LakeWriter], publish: Callable[[Head], None], is_ending: Callable[[], bool]
    ) -> None:
        self._publish = publish
        self._is_ending = is_ending
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lake")
        self._opened = self._thread.submit(writer)
        self._done: Future[Any] = self._opened
        """The last that was begun, and has to end well: the opening of the lake, or a commit."""

    def write_batch(self, values: list[LaneRows]) -> None:
        """Have rows staged."""
        if self._done.done():
            self._done.result()
        self._thread.submit(self._stage, values)  # what goes wrong there, the next commit tells

    def snapshot(self) -> None:
        """The end of an epoch: have it committed, after the one before."""
        self._done.result()
        self._done = self._thread.submit(self._commit)
        if self._is_ending():
            self._done.result()

    def close(self) -> None:
        """Let go of the lake; nothing is committed here but what was begun, since an error ends here too."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if not self._opened.cancelled() and self._opened.exception() is None:
            self._opened.result().close()

    # -- on the thread ---------------------------------------------------------------------------------------------

    def _stage(self, values: list[LaneRows]) -> None:
        writer = self._opened.result()
        for of_lane in values:
            if of_lane.begins:
                writer.begin(of_lane.lane)
            writer.add(of_lane.rows)

    def _commit(self) -> None:
        head = self._opened.result().flush()
        if head is not None:
            self._publish(head)
