"""Redrive: dead letters back onto Kafka, as the next generation of their id.

    dead letter ─► did the owner of its id end with it? ─► task, sealed ─► tasks.global

Generation g counts only where g - 1 ended dead: the message names the decision that says so, under the cluster's seal.
It may be sent again, by several at once, at any time: the first decision on (topic, logical id, generation) owns it.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from connectors.checked_producer import CheckedProducer
from connectors.topics import ensure_topics, establish_cluster, input_topic
from flows.cluster import belongs_to, cluster_key, config_of, fingerprint
from flows.lane import Sealer
from flows.replays.parts import Done, Past, as_file, empty_row
from flows.settings import Settings
from flows.steps.intake import seal_redrive
from one_lake.encode import values_of
from one_lake.runs import Asked
from schemas.decision import NO_OWNERS
from schemas.errors import RefusedError
from schemas.ids import RQMLRoundId, home_lane
from schemas.one import RunRow
from schemas.task import Origin, TaskDescriptor, TaskHead, encode

REDRIVEN = "redriven"
LEFT = "left"
"""Not sent; the note says why."""

_SAME_ID = "x.topic = r.topic AND x.logical_id = r.logical_id"

_read_head = msgspec.json.Decoder(TaskHead).decode


class _Dead(NamedTuple):
    """A dead letter."""

    lane: int
    decision_offset: int
    cluster: str | None
    topic: str
    logical_id: str
    generation: int
    reason: str
    introduces: bool
    task: str | None
    follows: bool
    """On a decision that took its id a round or an attempt further."""
    is_done: bool
    """Its id has a record."""
    is_driven: bool
    """Its id has a later generation."""
    payload: str | None


class Redriving:
    """Sends the dead letters of parts again.

    Args:
        settings: where Kafka and the cluster's key are.

    Raises:
        RefusedError: there is no broker or no key, or they are those of another cluster than the lake.
    """

    reused = 0
    asked = Asked(
        (
            *(f"r.{name}" for name in ("lane", "decision_offset", "cluster", "topic", "logical_id", "generation")),
            "d.reason",
            "r.introduces",
            "d.task",
            "coalesce(c.kind IN ('next_round', 'retry'), false) AS follows",
            f"EXISTS (FROM stored.records x WHERE {_SAME_ID}) AS is_done",
            f"EXISTS (FROM stored.rounds x WHERE {_SAME_ID} AND x.generation > r.generation) AS is_driven",
        ),
        joins="JOIN stored.dead_letters d ON coalesce(d.cluster, '') = coalesce(r.cluster, '') AND d.lane = r.lane "
        "AND d.decision_offset = r.decision_offset "
        "LEFT JOIN stored.rounds c ON coalesce(c.cluster, '') = coalesce(r.cluster, '') AND c.lane = r.cause_lane "
        "AND c.decision_offset = r.cause_offset AND c.generation = r.generation",
    )

    def __init__(self, settings: Settings) -> None:
        if not settings.key_path.exists():
            raise RefusedError(
                f"{settings.key_path}: no key; a redrive is sealed with that of the cluster (AUREON_KEY_FILE)"
            )
        config = config_of(settings)
        topics = ensure_topics(config, settings.lanes, settings.replication)
        key = cluster_key(settings.key_path)
        self._cluster = establish_cluster(config, topics, fingerprint(key)).cluster_id
        belongs_to(settings.lake_dir, self._cluster, "lake", "AUREON_LAKE")
        self._lanes = topics.lanes
        self._sealer = Sealer(key)
        self._producer = CheckedProducer(config)

    def close(self) -> None:
        """Let go of Kafka."""
        self._producer.close()

    def take(self, parts: Iterable[Past]) -> Iterator[Done]:
        """Send parts; each is done when the broker has confirmed it.

        Raises:
            OutcomeUnknownError: it has not; sending it again is harmless.
        """
        for past in parts:
            rows = [self._send(_Dead(*values)) for values in values_of(past.rounds, _Dead._fields)]
            self._producer.flush()
            yield Done(past.part, as_file(rows))

    def rest(self) -> Iterator[Done]:
        """Nothing is left."""
        return iter(())

    def _send(self, dead: _Dead) -> RunRow:
        why = self._hindrance(dead)
        if why or dead.payload is None:
            return _row(dead, LEFT, why or "the lake has no payload of it")
        task = seal_redrive(self._sealer, _next_life(dead, dead.payload), dead.lane, dead.decision_offset)
        lane = home_lane(task.logical_id, self._lanes)
        self._producer.send(input_topic(task.priority), lane, [encode(task)], [task.logical_id.encode()])
        return _row(dead, REDRIVEN, "")

    def _hindrance(self, dead: _Dead) -> str:
        """Say why a dead letter may not be sent again; empty where it may."""
        if dead.cluster not in (None, self._cluster):
            return "it died in another cluster"
        if dead.reason in NO_OWNERS or not (dead.introduces or dead.follows):
            return "it is not what its id ended with: send it under an id of its own"
        if dead.is_done:
            return "its id has a record"
        if dead.is_driven:
            return "it was redriven already"
        if dead.task is None:
            return "it is from before Aureon kept what is needed: send it under an id of its own"
        return ""


def _next_life(dead: _Dead, payload: str) -> TaskDescriptor:
    head = _read_head(dead.task or "")
    origin = head.origin
    if origin is not None:
        origin = Origin(introduces=True, ancestors=origin.ancestors, branches_left=origin.branches_left)
    told: dict[str, Any] = {name: getattr(head, name) for name in TaskHead.__struct_fields__}
    told |= {
        "task_id": str(RQMLRoundId(dead.logical_id, 0)),
        "generation": dead.generation + 1,
        "origin": origin,
        "payload": Raw(payload.encode()),
    }
    return TaskDescriptor(**told)


def _row(dead: _Dead, outcome: str, note: str) -> RunRow:
    return empty_row(dead, kind="dead", decided_at=round(time.time() * 1e6), outcome=outcome, note=note)
