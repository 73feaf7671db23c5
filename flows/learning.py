"""What a cell has learned of the models, kept in its state folder: `affinities.json`.

    decisions as read back ─► learn ─► affinities ─► route, validate
                                │
                                └─► affinities.json, every two seconds at most

The file names the place in each lane's log up to which it goes, so a replay teaches nothing twice, and an old file only
means that a little is learned again; of several processes of a cell the first one keeps it. Without one, or with one
that cannot be read, the last rounds in the lake teach.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from flows.affinity import Affinities, AffinityState, kind_of, verifier_of
from flows.steps.equivalence import group
from flows.steps.intake import Decided
from one_lake.query import RecentRound, recent_rounds
from schemas.decision import Decision, DecisionKind, RoundResult
from schemas.errors import RefusedError
from schemas.node import Answer

log = logging.getLogger(__name__)

WRITE_EVERY_S = 2.0
ROUNDS_OF_THE_LAKE = 4000

_read_candidates = msgspec.json.Decoder(tuple[Answer, ...]).decode


class Learning:
    """Affinities that outlive the process; threads may share it.

    Args:
        affinities: what is to be filled.
        path: the file.
        lake_dir: the lake that teaches where there is no file.
    """

    def __init__(self, affinities: Affinities, path: Path, lake_dir: Path) -> None:
        self.affinities = affinities
        self._path = path
        self._writing = threading.Lock()
        self._owned: IO[bytes] | None = None
        self._written_at = 0.0
        self._written = 0
        if not self._read():
            self._learn_from_lake(lake_dir)

    def learn(self, decided: Decided, now: float) -> None:
        """Learn from winning decisions of a lane, and keep it now and then.

        Args:
            decided: in log order.
            now: seconds since the epoch.
        """
        self.affinities.learn(decided.lane, decided.decisions)
        if now - self._written_at >= WRITE_EVERY_S and self._writing.acquire(blocking=False):
            try:
                self._written_at = now
                self._write()
            finally:
                self._writing.release()

    def close(self) -> None:
        """Keep what there is."""
        with self._writing:
            self._write()
            if self._owned is not None:
                self._owned.close()
                self._owned = None

    def _owns(self) -> bool:
        """Of the processes of a cell the first one keeps the file; what the others learned ends with them."""
        if self._owned is None:
            lock = self._path.with_suffix(".lock").open("wb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            self._owned = lock
        return True

    def _write(self) -> None:
        changes = self.affinities.changes
        if changes == self._written:
            return
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            # not synced: a file that a power cut leaves in pieces is as good as none, and the lake teaches
            if not self._owns():
                return
            draft.write_bytes(msgspec.json.encode(self.affinities.state()))
            draft.replace(self._path)
        except OSError as error:
            log.warning("%s: %s; what was learned is kept in memory alone", self._path, error)
        else:
            self._written = changes

    def _read(self) -> bool:
        try:
            self.affinities.restore(msgspec.json.decode(self._path.read_bytes(), type=AffinityState))
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            log.warning("%s: %s; the lake's last rounds are learned from instead", self._path, error)
            return False
        self._written = self.affinities.changes
        return True

    def _learn_from_lake(self, lake_dir: Path) -> None:
        try:
            rounds = recent_rounds(lake_dir, ROUNDS_OF_THE_LAKE)
        except RefusedError:
            return  # there is no lake yet
        for row in rounds:
            self.affinities.learn(row.lane, [(row.decision_offset, decision_of(row))])
        if rounds:
            log.info("learned from the last %d rounds in the lake how well the models do", len(rounds))


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
                verifier=verifier_of(row.payload.encode()) if accepted and row.payload else None,
            )
    except msgspec.DecodeError as error:
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
    groups = group(kind_of(row.payload.encode()), [row.answer or "", *(candidates[i].text for i in places)])
    for place, of_group in zip(places, groups[1:], strict=True):
        if of_group == groups[0]:
            yield place
