"""What a cell has learned from decisions, kept in its state folder, a file for each memory: `affinities.json`, …

    decisions as read back ─► learn ─► memories ─► route, validate, supervise, plan
                                │
                                └─► their files, every two seconds while anything comes, and before each snapshot

A file names the place in each lane's log up to which it goes, so a replay teaches nothing twice, and an old file only
means that a little is learned again: it is never older than the cut that a lane resumes from, before which nobody
reads the log again. Of several processes of a cell the first one keeps them. Without one, or with one that cannot be
read, the last rounds in the lake teach.
"""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from connectors.file_lock import try_lock
from flows.accepted import AcceptedRecords
from flows.affinity import Affinities
from flows.branched import BranchedContents
from flows.comparing.equivalence import comparison_for, group
from flows.items import Decided
from flows.lessons import view_of
from flows.memory import Memory
from flows.outlook import Outlooks
from flows.supervision.health import TopicRecord
from one_lake.query import RecentRound, recent_rounds
from schemas.decision import Decision, DecisionKind, Finding, RoundResult
from schemas.errors import UNREADABLE, RefusedError
from schemas.node import Answer
from schemas.software import version_in

log = logging.getLogger(__name__)

WRITE_EVERY_S = 2.0
ROUNDS_OF_THE_LAKE = 4000

_read_candidates = msgspec.json.Decoder(tuple[Answer, ...]).decode
_read_findings = msgspec.json.Decoder(tuple[Finding, ...]).decode


class Memories(Struct, frozen=True, kw_only=True):
    """All that a cell learns."""

    affinities: Affinities
    outlooks: Outlooks
    supervision: TopicRecord = msgspec.field(default_factory=TopicRecord)
    accepted: AcceptedRecords = msgspec.field(default_factory=AcceptedRecords)
    branched: BranchedContents = msgspec.field(default_factory=BranchedContents)

    def each(self) -> tuple[Memory, ...]:
        """Give them one by one."""
        return tuple([getattr(self, field) for field in self.__struct_fields__])


class Learning:
    """Memories that outlive the process; threads may share it.

    Args:
        memories: what is to be filled.
        folder: where their files are.
        lake_dir: the lake that teaches those that have none.
        cluster: whose log is learned from after that; None for who learns from no log.
    """

    def __init__(self, memories: Memories, folder: Path, lake_dir: Path, cluster: str | None) -> None:
        self.memories = memories
        self._each = memories.each()
        self._folder = folder
        self._writing = threading.Lock()
        self._owned: IO[bytes] | None = None
        self._written_at = 0.0
        self._written: dict[str, int] = {}
        if new := [m for m in self._each if not self._read(m)]:
            _learn_from_lake(new, lake_dir, cluster)

    def learn(self, decided: Decided, now: float) -> None:
        """Learn from winning decisions of a lane, and keep it now and then.

        Args:
            decided: in log order.
            now: seconds since the epoch.
        """
        for memory in self._each:
            memory.learn(decided.lane, decided.decisions)
        if now - self._written_at >= WRITE_EVERY_S and self._writing.acquire(blocking=False):
            try:
                self._written_at = now
                self._write_all()
            finally:
                self._writing.release()

    def keep(self, now: float) -> None:
        """Keep what is not kept yet: a cut is about to be, and what was learned before it will not come again.

        Args:
            now: seconds since the epoch.
        """
        with self._writing:
            self._written_at = now
            self._write_all()

    def close(self) -> None:
        """Keep what there is."""
        with self._writing:
            self._write_all()
            if self._owned is not None:
                self._owned.close()
                self._owned = None

    def _owns(self) -> bool:
        """Of the processes of a cell the first one keeps the files; what the others learned ends with them."""
        if self._owned is None:
            lock = (self._folder / "learned.lock").open("wb")
            if not try_lock(lock.fileno()):
                lock.close()
                return False
            self._owned = lock
        return True

    def _write_all(self) -> None:
        for memory in self._each:
            changes = memory.changes
            if changes == self._written.get(memory.name, 0):
                continue
            path = self._path(memory)
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            try:
                # not synced: a file that a power cut leaves in pieces is as good as none, and the lake teaches
                if not self._owns():
                    return
                draft.write_bytes(memory.encoded())
                draft.replace(path)
            except OSError as error:
                log.warning("%s: %s; what was learned is kept in memory alone", path, error)
            else:
                self._written[memory.name] = changes

    def _read(self, memory: Memory) -> bool:
        path = self._path(memory)
        try:
            _restore(memory, path.read_bytes())
        except FileNotFoundError:
            return False
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            log.warning("%s: %s; the lake's last rounds are learned from instead", path, error)
            return False
        self._written[memory.name] = memory.changes
        return True

    def _path(self, memory: Memory) -> Path:
        return self._folder / f"{memory.name}.json"


def _restore(memory: Memory, encoded: bytes) -> None:
    found = version_in(encoded)
    if found not in (0, memory.version):  # what is no JSON says more when it is read
        raise ValueError(f"it has version {found}, and this software reads {memory.version}")
    memory.restore(encoded)


def _learn_from_lake(memories: Sequence[Memory], lake_dir: Path, cluster: str | None) -> None:
    try:
        # of its own cluster alone: after a round of another log, its own would be taken for known up to that offset
        rounds = recent_rounds(lake_dir, ROUNDS_OF_THE_LAKE, cluster)
    except RefusedError:
        return  # there is no lake yet
    for row in rounds:
        for memory in memories:
            memory.learn(row.lane, [(row.decision_offset, decision_of(row))])
    if rounds:
        log.info("learned from the last %d rounds in the lake: %s", len(rounds), ", ".join(m.name for m in memories))


def decision_of(row: RecentRound) -> Decision:
    """Make of a row of the lake so much of its decision as teaches."""
    kind = DecisionKind(row.kind)
    payload = msgspec.Raw((row.payload or "").encode())
    result = None
    try:
        candidates = _read_candidates(row.candidates)
        leading = tuple(_leading(candidates, row)) if row.answer is not None else ()
        if candidates:
            accepted = row.evidence == "verifier" and kind is DecisionKind.CONVERGED and not row.forced
            result = RoundResult(
                answer=row.answer,
                score=0.0,
                confidence=0.0,
                agreement=0.0,
                # without candidates that lead, the answer is that of an earlier round
                evidence="cross-model" if row.evidence == "cross-model" and leading else "none",
                verified=True if accepted and leading else None,
                candidates=candidates,
                leading=leading,
                findings=_read_findings(row.findings) if row.findings else (),
                verifier=view_of(row.payload.encode()).verifier if accepted and row.payload else None,
            )
    except UNREADABLE as error:
        log.debug("rounds, lane %d, decision %d: %s", row.lane, row.decision_offset, error)
    return Decision(
        kind=kind,
        kafka_topic="",
        offset=0,
        task_id="",
        topic=row.topic,
        logical_id=row.logical_id,
        generation=row.generation,
        payload=payload,
        forced=row.forced,
        result=result,
        decided_at=row.decided_at,
    )


def _leading(candidates: tuple[Answer, ...], row: RecentRound) -> Iterator[int]:
    """Find who gave the answer; `rounds` does not tell."""
    if not row.payload:
        return  # it did not converge, so it does not matter
    places = [i for i, a in enumerate(candidates) if a.status == "ok"]
    view = view_of(row.payload.encode())
    texts = [row.answer or "", *(candidates[i].text for i in places)]
    groups = group(view.answer_kind, texts, comparison_for(view))
    for place, of_group in zip(places, groups[1:], strict=True):
        if of_group == groups[0]:
            yield place
