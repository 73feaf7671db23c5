"""What Kafka and the lake tell of the work, for `status` and the progress of a run; asking changes nothing."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from deltalake import DeltaTable
from msgspec import Struct

import one_lake
from connectors.kafka import ClientConfig, admin_client, library_log, patiently, preflight
from connectors.topics import RESULTS
from flows.budget import Spent
from flows.cluster import INPUTS
from one_lake import tables
from schemas.errors import UNREADABLE, TryAgainError

LIMIT_S = 5.0


REACH_S = 5.0
"""A broker that answers at all does so in this time; with all that a start takes besides, an error comes within ten."""


def reach(config: ClientConfig, limit_s: float = REACH_S) -> None:
    """Ask the broker whether it is there. What the library would log of its attempts is in the error.

    Raises:
        TryAgainError: it does not answer in time.
        RefusedError: it wants another user or certificate.
    """
    level = library_log.level
    library_log.setLevel(logging.CRITICAL)
    try:
        preflight(config, limit_s)
    finally:
        library_log.setLevel(level)


class InputFigures(Struct, frozen=True):
    """One input Kafka topic, over all lanes."""

    messages: int
    """All that were ever written to it."""
    decided: int
    """Those below the low-waters of the last commit: all before them have their decision."""
    waiting: int
    """Those from the low-waters on: waiting, under way, or decided since and not committed yet."""


class KafkaFigures(Struct, frozen=True):
    """What Kafka holds."""

    lanes: int
    inputs: dict[str, InputFigures]
    log_entries: int
    """Decisions on the log, all lanes together; started marks and decisions that came second count too."""
    waiting_by_lane: tuple[int, ...]
    """Messages of each lane without a committed decision, all inputs together."""

    @property
    def waiting(self) -> int:
        """Messages without a committed decision."""
        return sum(i.waiting for i in self.inputs.values())


class KafkaLook:
    """Looks at Kafka, as often as it is asked to.

    Args:
        config: from `connectors.kafka.client_config`.
        group: the consumer group in which cuts are committed.
    """

    def __init__(self, config: ClientConfig, group: str) -> None:
        self._config = config
        self._client: AdminClient = admin_client(config)
        self._group = group

    def figures(self) -> KafkaFigures | None:
        """Ask for the ends and the committed low-waters; None where Aureon's Kafka topics are not there.

        Raises:
            TryAgainError: the broker does not answer.
        """
        try:
            there = self._client.list_topics(timeout=LIMIT_S).topics
            lanes = len(there[RESULTS].partitions) if RESULTS in there else 0
            if not lanes or any(name not in there for name in INPUTS):
                return None
            places = [TopicPartition(name, lane) for name in (*INPUTS, RESULTS) for lane in range(lanes)]
            ends = self._offsets(places, OffsetSpec.latest())
            begins = self._offsets(places, OffsetSpec.earliest())
            low = self._committed(places)
        except KafkaException as error:
            # One that goes on would ask the broker that was there, without a pause; a new one learns who leads now.
            self._client = admin_client(self._config)
            brokers = self._config["bootstrap.servers"]
            raise TryAgainError(f"{brokers} does not answer: {error.args[0].str()}") from None
        inputs = {}
        by_lane = [0] * lanes
        for name in INPUTS:
            decided = [max(low.get((name, lane), 0), begins[name, lane]) for lane in range(lanes)]
            waiting = [ends[name, lane] - decided[lane] for lane in range(lanes)]
            inputs[name] = InputFigures(sum(decided) + sum(waiting), sum(decided), sum(waiting))
            by_lane = [so_far + more for so_far, more in zip(by_lane, waiting, strict=True)]
        return KafkaFigures(lanes, inputs, sum(ends[RESULTS, lane] for lane in range(lanes)), tuple(by_lane))

    def _offsets(self, places: list[TopicPartition], which: OffsetSpec) -> dict[tuple[str, int], int]:
        asked = self._client.list_offsets(
            dict.fromkeys(places, which), isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=LIMIT_S
        )
        return {(place.topic, place.partition): future.result(2 * LIMIT_S).offset for place, future in asked.items()}

    def _committed(self, places: list[TopicPartition]) -> dict[tuple[str, int], int]:
        def ask(left: float) -> list[TopicPartition]:
            groups = [ConsumerGroupTopicPartitions(self._group, places)]
            asked = self._client.list_consumer_group_offsets(groups, request_timeout=left)
            return asked[self._group].result(2 * LIMIT_S).topic_partitions or []

        found: list[TopicPartition] = patiently(ask, LIMIT_S)  # a broker that has just started loads them first
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}


class LakeCounts(Struct, frozen=True):
    """How many rows each table has."""

    records: int = 0
    branches: int = 0
    dead_letters: int = 0
    rounds: int = 0


class LakeLook:
    """Counts rows by the lake's log alone, without opening a file of data."""

    def __init__(self, lake_dir: Path) -> None:
        self._lake_dir = lake_dir
        self._tables: dict[str, tables.Followed] = {}

    def counts(self) -> LakeCounts:
        """Count the rows that are committed by now."""
        return LakeCounts(**{name: self._count(name) for name in LakeCounts.__struct_fields__})

    def _count(self, name: str) -> int:
        table = self._tables.get(name)
        if table is None:
            if not DeltaTable.is_deltatable(str(tables.folder(self._lake_dir, name))):
                return 0
            table = self._tables[name] = tables.Followed(self._lake_dir, name)
        return int(table.read_on().count())


class TopicFigures(Struct, frozen=True):
    """The tasks of one subject, as the lake has them."""

    converged: int = 0
    forced: int = 0
    """Of the converged: those whose rounds or budget were spent."""
    dead: int = 0
    cancelled: int = 0
    open: int = 0
    """Begun and not ended: a next round, a retry or a branch is waiting or under way."""
    branches: int = 0
    """Spawned, on this topic, by tasks of any."""
    rounds: int = 0
    calls: int = 0
    cost: float = 0.0


_BY_TOPIC = """
WITH spawned AS (SELECT topic, count(*) AS spawned FROM branches GROUP BY topic),
moved AS (SELECT lane AS cause_lane, decision_offset AS cause_offset FROM rounds WHERE kind = 'moved'),
-- decisions on what follows from others; a task that moved home waits there like any other
followed AS (
    SELECT topic, count(*) AS followed FROM rounds ANTI JOIN moved USING (cause_lane, cause_offset)
    WHERE cause_lane IS NOT NULL GROUP BY topic
)
SELECT
    topic,
    count(*) FILTER (kind = 'converged'),
    count(*) FILTER (kind = 'converged' AND forced),
    count(*) FILTER (kind = 'dead'),
    count(*) FILTER (kind = 'cancelled'),
    -- what follows may be in the lake before what it follows from, which another lane decided
    greatest(0, count(*) FILTER (kind IN ('next_round', 'retry'))
        + any_value(coalesce(spawned, 0)) - any_value(coalesce(followed, 0))),
    any_value(coalesce(spawned, 0)),
    count(kind),
    coalesce(sum(calls), 0)::BIGINT,
    coalesce(sum(cost), 0)
FROM outcomes FULL JOIN spawned USING (topic) LEFT JOIN followed USING (topic)
GROUP BY topic ORDER BY topic
"""


_OF_DAY = """
SELECT coalesce(sum(calls), 0)::BIGINT, coalesce(sum(tokens), 0)::BIGINT, coalesce(sum(cost), 0) FROM costs
WHERE day = date_trunc('day', to_timestamp($now))
"""


def lake_by_topic(lake_dir: Path, now: float) -> tuple[dict[str, TopicFigures], Spent]:
    """Sum the lake up: by subject, where messages that were no tasks are under the empty one, and for one day.

    Args:
        lake_dir: its folder.
        now: seconds since the epoch, of that day in UTC.

    Raises:
        RefusedError: there is no lake.
    """
    with one_lake.connect(lake_dir) as lake:
        rows: list[Any] = lake.execute(_BY_TOPIC).fetchall()
        (of_day,) = lake.execute(_OF_DAY, {"now": now}).fetchall()
    return {topic: TopicFigures(*figures) for topic, *figures in rows}, Spent(*of_day)


def total(by_topic: Mapping[str, TopicFigures]) -> TopicFigures:
    """Add all subjects up."""
    return TopicFigures(*(sum(getattr(f, n) for f in by_topic.values()) for n in TopicFigures.__struct_fields__))


def folder_size(folder: Path) -> tuple[int, int]:
    """Count the files of a folder and their bytes; what goes away meanwhile is left out."""
    files = size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(os.path.join(place, name)).st_size  # noqa: PTH116, PTH118 - thousands of files
                files += 1
    return files, size


def cluster_id(folder: Path) -> str | None:
    """Tell which cluster a folder belongs to, as it says itself."""
    try:
        found = msgspec.json.decode((folder / "cluster.json").read_bytes(), type=dict[str, str])
    except (OSError, *UNREADABLE):
        return None
    return found.get("cluster_id")


class Rate:
    """How fast a count grows, over the last few seconds."""

    OVER_S = 10.0

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def add(self, count: int, at: float | None = None) -> float:
        """Note a count; returns how much it grew each second."""
        at = time.monotonic() if at is None else at
        self._seen = [(t, n) for t, n in self._seen if at - t <= self.OVER_S]
        self._seen.append((at, count))
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - began) if ended > began else 0.0


def every(seconds: float) -> Iterator[None]:
    """Give a turn now and then every so many seconds, however long each takes."""
    while True:
        began = time.monotonic()
        yield
        time.sleep(max(0.0, began + seconds - time.monotonic()))
