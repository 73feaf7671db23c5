"""One table as those see it who write to it: each commit is one more version, sealed, or it is none."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction
from msgspec import Struct

from connectors.whole_files import sync
from one_lake import tables
from one_lake.keys import SigningKey
from one_lake.seals import Link, Merge, Seal, SealedFile, SealedLane, SignedSeal, newest_seal, sign
from one_lake.staged import StagedFile
from schemas.software import software_version

_NEVER = -1


class Signer(Struct, frozen=True):
    """Who commits."""

    key: SigningKey
    cluster: str
    """The cluster whose decisions the rows follow from."""


class Commit(Struct, frozen=True, kw_only=True):
    """What is to be committed."""

    actions: Sequence[AddAction | RemoveAction]
    files: Sequence[StagedFile]
    """Those that it adds."""
    lanes: tuple[SealedLane, ...] = ()
    others: Mapping[str, Link] = {}
    transactions: Mapping[str, int] = {}
    """By application, its version."""
    merge: Merge | None = None


class SealedTable:
    """A table of the lake; used from one thread.

    Args:
        lake_dir: the lake.
        name: of the table.
        signer: who commits.
    """

    def __init__(self, lake_dir: Path, name: str, signer: Signer) -> None:
        self.lake_dir = lake_dir
        self.name = name
        self.folder = tables.folder(lake_dir, name)
        self.delta: DeltaTable = tables.open_table(lake_dir, name)
        self.tip: Link | None = None
        """Its newest seal, as of the last look."""
        self._signer = signer
        self._schema = self.delta.schema()
        self._looked_at = _NEVER
        self._opened_at = self.delta.version()

    def find_tip(self) -> None:
        """Read of the log what is new in it since the newest seal was looked for."""
        found = newest_seal(self.lake_dir, self.name, self.delta.version(), self._looked_at)
        self._looked_at = self.delta.version()
        if found is not None:
            self.tip = Link(found.seal.version, found.hash)

    def try_commit(self, commit: Commit, on_failure: Callable[[], None]) -> SignedSeal | None:
        """Log a commit as the next version, and only as that.

        Args:
            commit: what it is.
            on_failure: called before an error is raised, where it is certain that the log does not have it.

        Returns:
            Its seal; None when another writer took the version, and the table is as that one left it.

        Raises:
            DeltaError: it was not logged, or nobody knows.
            OSError: as above.
        """
        version = self.delta.version() + 1
        if tables.log_entry(self.lake_dir, self.name, version).exists():
            # with several cells there most often is one; to try in vain costs twice as much as to look
            self.delta.update_incremental()
            return None
        self.find_tip()
        seal = self._sealed(commit, version)
        try:
            self.delta.create_write_transaction(
                list(commit.actions),
                "append",
                self._schema,
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(app, number) for app, number in commit.transactions.items()],
                    max_commit_retries=0,
                    custom_metadata=seal.metadata(),
                ),
                post_commithook_properties=PostCommitHookProperties(
                    create_checkpoint=False, cleanup_expired_logs=False
                ),
            )
        except (DeltaError, OSError) as error:
            # It may be in the log all the same: look before doing anything else. If that fails, the files stay.
            self.delta.update_incremental()
            if not self._is_logged(seal, version):
                if isinstance(error, CommitFailedError) and self.delta.version() >= version:
                    return None
                on_failure()
                raise
        entry = tables.log_entry(self.lake_dir, self.name, version)
        sync(entry)
        sync(entry.parent)
        for file in commit.files:
            file.release()
        self.tip, self._looked_at = Link(version, seal.hash), version
        return seal

    def allow_removal(self) -> bool:
        """Let rows be removed from now on, which only a merge does; returns whether that was a change."""
        if self.delta.metadata().configuration.get("delta.appendOnly") != "true":
            return False
        self.delta.alter.set_table_properties({"delta.appendOnly": "false"})
        self.delta = tables.open_table(self.lake_dir, self.name)
        entry = tables.log_entry(self.lake_dir, self.name, self.delta.version())
        sync(entry)
        sync(entry.parent)
        return True

    def _is_logged(self, seal: SignedSeal, version: int) -> bool:
        try:
            entry = tables.log_entry(self.lake_dir, self.name, version).read_text()
        except FileNotFoundError:
            return False
        return seal.signature in entry

    def _sealed(self, commit: Commit, version: int) -> SignedSeal:
        seal = Seal(
            table=self.name,
            version=version,
            at=time.time(),
            key=self._signer.key.name,
            software=software_version(),
            cluster=self._signer.cluster,
            lanes=commit.lanes,
            files=tuple(SealedFile(file.path.name, file.sha256) for file in commit.files),
            previous=self.tip,
            others=dict(commit.others),
            merge=commit.merge,
        )
        return sign(seal, self._signer.key)

    def catch_up(self, logged: int) -> None:
        """Every so often leave a checkpoint for those who open the table, and open it anew.

        Args:
            logged: the version that was committed last from here.
        """
        if logged % tables.CHECKPOINT_INTERVAL == 0 and logged > self.delta.version():
            self.delta.update_incremental()
            self.checkpoint()
        if max(logged, self.delta.version()) >= self._opened_at + tables.CHECKPOINT_INTERVAL:
            # A table that is only ever read on keeps every entry since it was opened, and goes through them again
            # at each commit: 100 ms after 900 commits.
            self.delta = tables.open_table(self.lake_dir, self.name)
            self._opened_at = self.delta.version()

    def checkpoint(self) -> None:
        """Write a checkpoint of the version that was read last."""
        self.delta.create_checkpoint()
        log = tables.log_entry(self.lake_dir, self.name, 0).parent
        for checkpoint in (*log.glob(f"{self.delta.version():020}.checkpoint*"), log / "_last_checkpoint"):
            sync(checkpoint)
        sync(log)
