"""Which table a record goes to: the quality gate's word, given once.

Judged records go on as they are, or as dead letters with the expectation that failed. The two tables are committed
apart, and the gate may have changed when a writer comes back; so what one of them holds above `rounds` says where the
rows of that commit went, and they go there again.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
from msgspec import Struct

from one_lake.encode import encode_rows, record_batch
from one_lake.gate import Judged
from schemas.ids import RQMLRoundId
from schemas.one import QUALITY_GATE, DeadLetterRow, Record, RoundRow

BATCH = 2_000
"""Records that are judged at once; a judgement takes 0.2 to 0.3 s, however many they are."""

Ended = Record | DeadLetterRow
"""What becomes of a task in the end."""


class Routes(Struct, frozen=True):
    """What the lake holds of a lane already."""

    rounds: int
    """Its last decision offset in `rounds`: up to here all tables hold all."""
    records: int
    dead_letters: int
    """The last ones in these tables."""
    records_there: frozenset[int] = frozenset()
    refused_there: frozenset[int] = frozenset()
    """Above `rounds`, the offsets of the records in both."""

    def goes_where_it_went(self, offset: int) -> bool | None:
        """Whether a record at an offset is one, if that was settled before."""
        if offset in self.records_there:
            return True
        if offset in self.refused_there or offset <= self.records:
            return False
        return True if offset <= self.dead_letters else None


class Gating:
    """Takes records and dead letters, in order, and gives them back in the same order, judged.

    Args:
        judge: judges a batch of records.
        routes: tells what the lake holds of a lane; asked when its first row comes.
        alert: told what is to be said of a batch.
    """

    def __init__(
        self,
        judge: Callable[[pa.RecordBatch], Judged],
        routes: Callable[[int], Routes],
        alert: Callable[[str], None],
    ) -> None:
        self._judge = judge
        self._routes_of = routes
        self._alert = alert
        self._routes: dict[int, Routes] = {}
        self._waiting: list[_Waiting] = []
        self._judged: deque[Future[list[Ended]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lake-gate")
        self.judged_records = self.refused_records = 0

    def add(self, rows: Iterable[Ended], rounds: Iterable[RoundRow]) -> None:
        """Take rows, and the rounds of the same decisions."""
        of_round = {(row.lane, row.decision_offset): row for row in rounds}
        for row in rows:
            routes = self._routes.get(row.lane)
            if routes is None:
                routes = self._routes[row.lane] = self._routes_of(row.lane)
            if row.decision_offset > routes.rounds:
                self._waiting.append(_Waiting(row, of_round.get((row.lane, row.decision_offset)), routes))
        if len(self._waiting) >= BATCH:
            self._submit()

    def forget(self, lane: int) -> None:
        """Ask anew what the lake holds of a lane."""
        self._routes.pop(lane, None)

    def judged(self) -> list[Ended]:
        """What was judged by now."""
        found: list[Ended] = []
        while self._judged and self._judged[0].done():
            found += self._judged.popleft().result()
        return found

    def drain(self) -> list[Ended]:
        """All that was added; waits for it."""
        if self._waiting:
            self._submit()
        found: list[Ended] = []
        while self._judged:
            found += self._judged.popleft().result()
        return found

    def close(self) -> None:
        """Let go of what was added."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._waiting.clear()

    def _submit(self) -> None:
        rows, self._waiting = self._waiting, []
        self._judged.append(self._thread.submit(self._settle, rows))

    def _settle(self, rows: "list[_Waiting]") -> list[Ended]:
        records = [each.row for each in rows if isinstance(each.row, Record)]
        refused: dict[tuple[int, int], str] = {}
        if records:
            judged = self._judge(record_batch(Record, encode_rows(records)))
            refused = {_place(records[each.row]): each.expectation for each in judged.refused}
            self.judged_records += len(records)
            self.refused_records += len(refused)
            for alert in judged.alerts:
                self._alert(alert)
        return [_routed(each, refused) for each in rows]


class _Waiting(NamedTuple):
    row: Ended
    round_row: RoundRow | None
    routes: Routes


def _routed(waiting: _Waiting, refused: dict[tuple[int, int], str]) -> Ended:
    row = waiting.row
    if not isinstance(row, Record):
        return row
    settled = waiting.routes.goes_where_it_went(row.decision_offset)
    failed = refused.get(_place(row))
    if settled or (settled is None and failed is None):
        return row
    return _as_dead_letter(row, waiting.round_row, failed or "an expectation that is none any more")


def _place(row: Any) -> tuple[int, int]:
    return row.lane, row.decision_offset


def _as_dead_letter(record: Record, round_row: RoundRow | None, failed: str) -> DeadLetterRow:
    return DeadLetterRow(
        lane=record.lane,
        decision_offset=record.decision_offset,
        task_id=str(RQMLRoundId(record.logical_id, record.round_index)),
        topic=record.topic,
        logical_id=record.logical_id,
        generation=record.generation,
        round_index=record.round_index,
        attempt=record.attempt,
        reason=QUALITY_GATE,
        detail=failed,
        kafka_topic=round_row.kafka_topic if round_row is not None else "",
        message_offset=round_row.message_offset if round_row is not None else -1,
        payload=record.payload,
        raw="",
        history=[f"answer: {record.answer}"[:2000]],
        died_at=record.converged_at,
        cluster=record.cluster,
        decision_hash=record.decision_hash,
    )
