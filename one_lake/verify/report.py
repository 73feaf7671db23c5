"""What is wrong with a lake."""

import enum
from collections.abc import Iterable

from msgspec import Struct

from schemas.head import Head


class Fault(enum.StrEnum):
    """A kind of thing that may be wrong."""

    LOG_GAP = "log_gap"
    SEAL_ALTERED = "seal_altered"
    CHAIN_BROKEN = "chain_broken"
    KEY_UNKNOWN = "key_unknown"
    KEY_NOT_TRUSTED = "key_not_trusted"
    HEAD_MISSING = "head_missing"
    FILE_MISSING = "file_missing"
    FILE_ALTERED = "file_altered"
    FILE_NOT_SEALED = "file_not_sealed"
    ROW_ALTERED = "row_altered"
    ROW_MISSING = "row_missing"
    ROW_ADDED = "row_added"
    ROW_REPLACED = "row_replaced"
    ROW_TWICE = "row_twice"
    CONTENT_ALTERED = "content_altered"
    BLOB_MISSING = "blob_missing"
    RECORD_MISSING = "record_missing"
    RECORD_FORGED = "record_forged"
    DEAD_LETTER_MISSING = "dead_letter_missing"
    DEAD_LETTER_FORGED = "dead_letter_forged"
    BRANCH_FORGED = "branch_forged"
    ROW_DIFFERS = "row_differs"
    CAUSE_DIFFERS = "cause_differs"
    ID_TWICE = "id_twice"
    OWNER_TWICE = "owner_twice"
    SUPERSEDED_ALONE = "superseded_alone"


FAULTS: dict[Fault, str] = {
    Fault.LOG_GAP: "an entry of a table's log is gone",
    Fault.SEAL_ALTERED: "a commit's seal is not what its key signed",
    Fault.CHAIN_BROKEN: "a seal does not follow on the one before it, or names one that is not there",
    Fault.KEY_UNKNOWN: "a commit is signed with a key that the lake does not have",
    Fault.KEY_NOT_TRUSTED: "a commit is signed with a key that the given ones do not vouch for",
    Fault.HEAD_MISSING: "the lake does not hold a head that was told: its tail was cut off, or it was written anew",
    Fault.FILE_MISSING: "a file is gone",
    Fault.FILE_ALTERED: "a file is not the one that was sealed, or cannot be read",
    Fault.FILE_NOT_SEALED: "a file was added by a commit that did not seal it",
    Fault.ROW_ALTERED: "a row is not what its hash says",
    Fault.ROW_MISSING: "rows of a commit are gone",
    Fault.ROW_ADDED: "there are rows that no commit has sealed",
    Fault.ROW_REPLACED: "rows of a commit are others than it sealed",
    Fault.ROW_TWICE: "a row is there twice",
    Fault.CONTENT_ALTERED: "a record's content hash is not that of its question and answer",
    Fault.BLOB_MISSING: "a payload or an answer in the blob store is gone, or spoilt",
    Fault.RECORD_MISSING: "a task converged, and has no record",
    Fault.RECORD_FORGED: "a record follows from no decision in `rounds`",
    Fault.DEAD_LETTER_MISSING: "a message ended without a record, and has no dead letter",
    Fault.DEAD_LETTER_FORGED: "a dead letter follows from no decision in `rounds`",
    Fault.BRANCH_FORGED: "a branch follows from no record",
    Fault.ROW_DIFFERS: "a record or a dead letter tells otherwise of its decision than `rounds`",
    Fault.CAUSE_DIFFERS: "a round does not have the hash of the decision that it follows from",
    Fault.ID_TWICE: "an id has two records; of different clusters, the next merge settles that",
    Fault.OWNER_TWICE: "two messages own an id",
    Fault.SUPERSEDED_ALONE: "a record gave way to another in a merge, and there is none of its id",
}


class Finding(Struct, frozen=True, gc=False):
    """One thing that is wrong."""

    fault: Fault
    where: str
    """What it is about: a row as `table[lane]@decision offset`, a commit, a file."""
    detail: str = ""


class Report(Struct, kw_only=True):
    """What was verified, and what was found."""

    tables: dict[str, int] = {}
    """By table, how many rows."""
    files: int = 0
    seals: int = 0
    heads: int = 0
    """Heads that were told, and are in the lake."""
    head: Head | None = None
    """Of the lake, as it is: to be kept elsewhere, and compared later."""
    not_sealed: int = 0
    """Rows from before there were hashes: nothing vouches for them."""
    blobs: int = 0
    blobs_skipped: int = 0
    """Records whose content is in the blob store, which was not asked."""
    faults: dict[Fault, int] = {}
    """How often each was found."""
    first: dict[Fault, Finding] = {}
    """The first one of each."""

    @property
    def is_sound(self) -> bool:
        """Nothing was found."""
        return not self.faults

    def add(self, findings: Iterable[Finding]) -> None:
        """Take findings up."""
        for finding in findings:
            self.count(finding, 1)

    def count(self, finding: Finding, times: int) -> None:
        """Take one up that stands for several."""
        self.faults[finding.fault] = self.faults.get(finding.fault, 0) + times
        self.first.setdefault(finding.fault, finding)
