"""Kafka, the lake and the state folder, connected: what the lanes of one process share."""

import logging
import secrets
import socket
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from weakref import WeakValueDictionary

from confluent_kafka import TopicPartition

from connectors.cancels import CANCEL_KEY, Cancels
from connectors.checked_producer import CheckedProducer
from connectors.cut_commits import CutCommits, Places
from connectors.directives import AFFINITY_KEY, QUARANTINE_KEY, Directives
from connectors.heartbeats import HeartbeatWriter
from connectors.kafka import preflight
from connectors.lane_group import FixedLanes, LaneGroup
from connectors.lane_reader import LaneReader, Watermarks
from connectors.owner_index import OwnerIndex
from connectors.topics import DIRECTIVES, RESULTS, ClusterRecord, Topics, ensure_topics, establish_cluster
from connectors.whole_files import ANYBODY, make_once
from flows.budget import Spent
from flows.cluster import INPUTS, belongs_to, cluster_key, config_of, fingerprint
from flows.cut import Cut, joined, pieces_of
from flows.lane import Sealer, id_key
from flows.orders import Orders
from flows.settings import Settings
from one_lake.gate import QualityGate
from one_lake.keys import signing_key
from one_lake.lanes import LaneVersions
from one_lake.tables import owners_copy
from one_lake.writer import LakeWriter
from schemas.errors import TryAgainError
from schemas.ids import Owner
from schemas.task import TaskDescriptor

log = logging.getLogger(__name__)

FAR_BEHIND = 20_000
"""So many entries of its log a lane reads in a second or two; beyond, the lake fills its index of ids faster."""

MEMBERS = "-cells"
"""The group whose members are the cells is named like that of the cuts, with this behind it."""


class Connections:
    """Kafka and the state folder, as the lanes of this process share them."""

    def __init__(self, settings: Settings, should_stop: Callable[[], bool]) -> None:
        self._settings = settings
        self.config = config_of(settings)
        preflight(self.config)
        self.topics: Topics = ensure_topics(self.config, settings.lanes, settings.replication)
        key = cluster_key(settings.key_path)
        self.sealer = Sealer(key)
        self.cluster: ClusterRecord = establish_cluster(self.config, self.topics, fingerprint(key))
        belongs_to(settings.state_dir, self.cluster.cluster_id, "state folder", "AUREON_STATE")
        belongs_to(settings.lake_dir, self.cluster.cluster_id, "lake", "AUREON_LAKE")
        self._signing_key = signing_key(settings.state_dir)
        self.producer = CheckedProducer(self.config, should_stop, idempotent=self.topics.committed_only)
        self._watermarks = Watermarks(self.config)
        self._readers: WeakValueDictionary[tuple[str, int], LaneReader] = WeakValueDictionary()
        """Those that are open, by Kafka topic and lane."""
        self._commits = CutCommits(self.config, settings.group)
        self.heartbeats = HeartbeatWriter(self.config)
        self.cancels, self.orders = Cancels(), Orders()
        takers = {
            CANCEL_KEY: self.cancels.take,
            QUARANTINE_KEY: self.orders.take_quarantine,
            AFFINITY_KEY: self.orders.take_affinity,
        }
        self._directives = Directives(self.reader(DIRECTIVES, 0, 0), takers, self.cancels.settle)

    def reader(self, kafka_topic: str, lane: int, offset: int) -> LaneReader:
        """Open one partition for reading."""
        reader = self._readers[kafka_topic, lane] = LaneReader(
            self.config,
            kafka_topic,
            lane,
            offset,
            self._watermarks,
            committed_only=self.topics.committed_only,
            # the embedded broker answers an empty fetch at once: a dozen readers at their ends keep two cores busy
            sleep_after_s=1.0 if self.topics.committed_only else 0.0,
        )
        return reader

    def expect(self, kafka_topic: str, lane: int) -> None:
        """Say that something was sent to a partition, which may be one that is read here."""
        reader = self._readers.get((kafka_topic, lane))
        if reader is not None:
            reader.expect()

    @cached_property
    def member(self) -> str:
        """The name of this cell."""
        return member_name(self._settings.state_dir)

    @cached_property
    def ownership(self) -> LaneGroup | FixedLanes:
        """Which lanes this cell has: those that the group hands out, unless they are fixed, by hand or on the embedded
        broker, which does not notice when a member dies.
        """
        settings = self._settings
        share, shares = settings.cell_share
        if not settings.cell and self.topics.committed_only:
            return LaneGroup(self.config, settings.group + MEMBERS, self.member, RESULTS, settings.drain_s)
        mine = [lane for lane in range(self.topics.lanes) if lane % shares == share - 1]
        return FixedLanes(mine)

    def owners(self, lane: int, resume_from: int) -> OwnerIndex:
        """Open the index of ids of a lane; one that is new, or far behind, goes on with the copy that was left last,
        and takes from the lake's rows what is lacking then.
        """
        path, copy = self._settings.state_dir / f"lane-{lane:04d}.sqlite", owners_copy(self._settings.lake_dir, lane)
        index = OwnerIndex(path, copy)
        if resume_from > index.next_offset + (0 if index.is_new else FAR_BEHIND):
            try:
                self._catch_up(index, lane)
            except BaseException:
                index.close()
                raise
        return index

    def lake_writer(self, gate: QualityGate | None = None) -> LakeWriter:
        """Opens the lake for writing."""
        return LakeWriter(self._settings.lake_dir, self._signing_key, self.cluster.cluster_id, gate)

    def check_lake(self, lane: int, rows: int) -> None:
        """See that the lake has the rows of a lane that it is known to have had.

        Args:
            lane: its number.
            rows: the decision from which the last of them follow.

        Raises:
            TryAgainError: it has not, or cannot be read; says what to do.
        """
        folder = self._settings.lake_dir
        held = LaneVersions(folder, self.cluster.cluster_id).held(lane)
        if held < rows:
            raise TryAgainError(
                f"lane {lane} was in the lake up to its decision {rows}, and the lake in {folder} has it up to {held}: "
                "is that the lake, and is it mounted? One that is lost, or an older copy, is filled again from Kafka: "
                "end all cells, delete the folder `recovery` in each state folder, and name another AUREON_GROUP"
            )

    def spent_of_day(self, lane: int, now: float) -> Spent:
        """Tell what a lane has spent today, by whichever cell, as far as its rounds are in the lake.

        Args:
            lane: its number.
            now: seconds since the epoch.
        """
        midnight = now // 86400 * 86400
        lake = self.lake_writer()
        try:
            return Spent(*lake.spent_in(lane, midnight, midnight + 86400))
        finally:
            lake.close()

    def _catch_up(self, index: OwnerIndex, lane: int) -> None:
        lake = self.lake_writer()
        try:
            version, first = lake.version(lane), index.next_offset
            if version < first:
                return
            log.info("lane %d: its index of ids takes from the lake offsets %d to %d", lane, first, version)

            def known() -> Iterator[tuple[bytes, Owner]]:
                for batch in lake.owners(lane, first):
                    for o in batch:
                        owner = Owner(o.kafka_topic, o.message_offset, o.payload_digest)
                        yield id_key(o.topic, o.logical_id, o.generation), owner

            index.catch_up(known(), version + 1)
        finally:
            lake.close()

    def committed_cut(self, lane: int) -> Cut | None:
        """The cut that was committed last, by whichever cell."""
        places = {name: TopicPartition(name, lane) for name in (RESULTS, *INPUTS)}
        found = self._commits.committed_cut(list(places.values()))
        texts = {name: found.get(place, (0, ""))[1] for name, place in places.items()}
        common = texts.pop(RESULTS)
        return joined(common, texts) if common else None

    def commit_cut(self, cut: Cut) -> None:
        """Commit a cut soon."""
        self._commits.keep(cut.lane, _places(cut))

    def commit_now(self, cut: Cut) -> None:
        """Commit a cut, and wait until the broker has it."""
        self._commits.now(cut.lane, _places(cut))

    def forget_cut(self, lane: int) -> None:
        """Commit nothing more of a lane."""
        self._commits.forget(lane)

    def is_cancelled(self, task: TaskDescriptor) -> bool:
        """Tell whether a task, or one that it came of, is cancelled.

        Raises:
            Exception: nobody can tell any more.
        """
        self._directives.check()
        return self.cancels.covers(task)

    def flush(self) -> None:
        """Wait until all that was sent has arrived."""
        self.producer.flush()

    def close(self) -> None:
        """Let go of Kafka."""
        self._directives.close()
        self.heartbeats.close()
        self._watermarks.close()
        self.producer.close()
        if "ownership" in vars(self):
            self.ownership.close()
        self._commits.close()


def _places(cut: Cut) -> Places:
    """What to commit of a cut: its low-waters are the group's offsets, so that the usual tools show the lag."""
    common, pieces = pieces_of(cut)
    places = {TopicPartition(name, cut.lane): (cut.topics[name].low, piece) for name, piece in pieces.items()}
    places[TopicPartition(RESULTS, cut.lane)] = (cut.resume_from, common)
    return places


def member_name(state_dir: Path) -> str:
    """Name this cell for good: the same in every life, and another one for every state folder."""
    path = state_dir / "cell.name"
    make_once(path, f"{socket.gethostname()}-{secrets.token_hex(4)}\n".encode(), ANYBODY)
    return path.read_text().strip()
