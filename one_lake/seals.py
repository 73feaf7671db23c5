"""What proves the rows of a commit: a seal, signed, in the entry of the log that adds them.

A row's hash is the sha256 of the row as a line of JSON (`one_lake.encode`). The hashes of a commit's rows are, lane by
lane, the leaves of a Merkle tree, built as RFC 9162 section 2.1.1 does, except that a leaf is the row's hash itself: no
line begins with the byte that inner nodes begin with. The seal holds the roots, the sha256 of the commit's files, and
the hash of the table's seal before it; so the newest seal stands for the whole table. That of `rounds`, which is
committed last, holds the newest seals of the other tables too: it is the lake's *head*.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from connectors.whole_files import ANYBODY, replace
from one_lake import tables
from one_lake.keys import PublicKey, SigningKey
from schemas.errors import UNREADABLE, BadRecordError

SEAL, SIGNATURE = "aureon.seal", "aureon.signature"
"""The entries of a commit's metadata."""


class SealedLane(Struct, frozen=True, gc=False, array_like=True):
    """The rows of one lane in a commit."""

    lane: int
    first: int
    last: int
    """Decision offsets."""
    rows: int
    root: str
    """Of the Merkle tree over the rows' hashes in the order of (decision offset, index), in hex."""
    cluster: str = ""
    """The cluster whose decisions they follow from, if that is not the seal's."""


class SealedFile(Struct, frozen=True, gc=False, array_like=True):
    """A file that a commit adds."""

    name: str
    sha256: str


class Link(Struct, frozen=True, gc=False, array_like=True):
    """Names a seal: the version of its table that it made, and its hash."""

    version: int
    hash: str


class Merge(Struct, frozen=True, gc=False, kw_only=True):
    """Of a commit that took rows from another lake: which, and how."""

    head: Link
    """The version of the other lake's `rounds`, and the hash of its seal; so all that it held then is proved by it."""
    key: str
    """The key that signed that."""
    by: str
    """The criteria by which one of two records of an id was kept."""


class Seal(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a commit says of itself."""

    table: str
    version: int
    at: float
    """Seconds since the epoch."""
    key: str
    """The name of the key that signed it."""
    software: str
    cluster: str = ""
    """The cluster whose decisions the rows follow from."""
    lanes: tuple[SealedLane, ...] = ()
    """Of new rows; a commit that only rewrites files has none."""
    files: tuple[SealedFile, ...] = ()
    previous: Link | None = None
    """The table's seal before this one."""
    others: dict[str, Link] = {}
    """Of a seal of `rounds`: the newest seals of the other tables."""
    merge: Merge | None = None


class SignedSeal(Struct, frozen=True, gc=False):
    """A seal with its signature, and exactly as it was signed."""

    body: str
    signature: str
    """Ed25519 over the body, in hex."""

    @property
    def seal(self) -> Seal:
        """Read the body.

        Raises:
            BadRecordError: it is no seal.
        """
        try:
            return _decode_seal(self.body)
        except UNREADABLE as error:
            raise BadRecordError(f"not a seal: {error}") from None

    @property
    def hash(self) -> str:
        """sha256 of the body, in hex."""
        return hashlib.sha256(self.body.encode()).hexdigest()

    def metadata(self) -> dict[str, str]:
        """What the commit's entry in the log takes up."""
        return {SEAL: self.body, SIGNATURE: self.signature}

    def is_of(self, key: PublicKey) -> bool:
        """Tell whether a key has signed it."""
        return key.holds(self.signature, self.body.encode())


_decode_seal = msgspec.json.Decoder(Seal).decode


def sign(seal: Seal, key: SigningKey) -> SignedSeal:
    """Sign a seal."""
    body = msgspec.json.encode(seal)
    return SignedSeal(body.decode(), key.sign(body))


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root of a Merkle tree over digests; of none, the sha256 of nothing."""
    level = list(leaves)
    if not level:
        return hashlib.sha256(b"").digest()
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        above = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def seal_in(entry: bytes) -> SignedSeal | None:
    """The seal in an entry of a table's log, if it has one."""
    if SEAL.encode() not in entry:
        return None
    for told in actions(entry, "commitInfo"):
        if isinstance(told.get(SEAL), str):
            signature = told.get(SIGNATURE)
            return SignedSeal(told[SEAL], signature if isinstance(signature, str) else "")
    return None


def actions(entry: bytes, name: str) -> Iterator[dict[str, Any]]:
    """Read the actions of one name in an entry of a table's log.

    Raises:
        ValueError: a line is no JSON.
    """
    for line in entry.splitlines():
        if f'"{name}"'.encode() in line:
            try:
                told = json.loads(line)
            except RecursionError:
                raise ValueError("nested too deeply") from None
            if isinstance(told, dict) and isinstance(told.get(name), dict):
                yield told[name]


# -- all seals of a table --------------------------------------------------------------------------------------------


class Entry(Struct, frozen=True, gc=False, array_like=True):
    """What an entry of a table's log says of rows."""

    version: int
    body: str
    """Of its seal; "" where it has none."""
    signature: str
    added: tuple[str, ...] = ()
    """The files that it adds."""

    @property
    def signed(self) -> SignedSeal | None:
        """Its seal."""
        return SignedSeal(self.body, self.signature) if self.body else None


_encode_entries = msgspec.json.Encoder().encode_lines
_decode_entry = msgspec.json.Decoder(Entry).decode
ARCHIVE_BYTES = 4 << 20
"""An archive that is smaller is written anew with what is added."""


def entry_of(version: int, data: bytes) -> Entry:
    """Read an entry of a table's log."""
    signed = seal_in(data)
    body, signature = (signed.body, signed.signature) if signed is not None else ("", "")
    added = tuple([unquote(str(action.get("path", ""))) for action in actions(data, "add")])
    return Entry(version, body, signature, added)


def entries(lake_dir: str | Path, table: str, after: int = -1) -> Iterator[Entry]:
    """What the log of a table says, in order: from the archive, and from then on from the log itself.

    Args:
        lake_dir: the lake.
        table: its name.
        after: leave out what is not above this version.

    Raises:
        BadRecordError: an archive or an entry cannot be read; it is named.
    """
    last = after
    try:
        for path in _archives(lake_dir, table):
            if _last_in(path) > last:
                for entry in _archived(path):
                    if entry.version > last:
                        yield entry
                        last = entry.version
        for version in tables.log_versions(lake_dir, table):
            if version > last:
                yield _entry_at(tables.log_entry(lake_dir, table, version), version)
                last = version
    except FileNotFoundError:  # it was archived, or put together with another archive, since we looked
        yield from entries(lake_dir, table, last)


def _archived(path: Path) -> Iterator[Entry]:
    try:
        with gzip.open(path) as lines:
            yield from map(_decode_entry, lines)
    except (gzip.BadGzipFile, zlib.error, EOFError, *UNREADABLE) as error:
        raise BadRecordError(f"{path}: no archive of seals: {error}") from None


def _entry_at(path: Path, version: int) -> Entry:
    try:
        return entry_of(version, path.read_bytes())
    except ValueError as error:  # of JSON, or of text that is none
        raise BadRecordError(f"{path}: no entry of a table's log: {error}") from None


def _last_in(archive_path: Path) -> int:
    """The last version in an archive, which its name tells."""
    return int(archive_path.name.split(".")[0].split("-")[1])


def archive(lake_dir: str | Path, table: str) -> None:
    """Keep the seals of all entries in a place where they do not expire; used by one process at a time."""
    paths = _archives(lake_dir, table)
    small = [path for path in paths[-1:] if path.stat().st_size < ARCHIVE_BYTES]
    known = -1 if not paths else _last_in(paths[-1])
    if not any(version > known for version in tables.log_versions(lake_dir, table)):
        return
    after = int(small[0].name.split("-")[0]) - 1 if small else known
    kept = list(entries(lake_dir, table, after))
    name = f"{kept[0].version:020}-{kept[-1].version:020}.jsonl.gz"
    replace(tables.seals_folder(lake_dir, table) / name, gzip.compress(_encode_entries(kept), mtime=0), ANYBODY)
    for path in small:
        path.unlink()


def _archives(lake_dir: str | Path, table: str) -> list[Path]:
    """In order; where two begin with the same version, that which goes further is the last one."""
    return sorted(tables.seals_folder(lake_dir, table).glob("*-*.jsonl.gz"))


def digests_of(lake_dir: str | Path, table: str) -> dict[str, str]:
    """By name of a file, the sha256 that a seal of its table has of it."""
    return {
        file.name: file.sha256
        for entry in entries(lake_dir, table)
        if entry.signed is not None
        for file in entry.signed.seal.files
    }


def newest_seal(lake_dir: str | Path, table: str, version: int, known: int = -1) -> SignedSeal | None:
    """The newest seal of a table up to a version, if one is newer than a version that is known already."""
    for number in range(version, known, -1):
        try:
            data = tables.log_entry(lake_dir, table, number).read_bytes()
        except FileNotFoundError:
            break
        if (found := seal_in(data)) is not None:
            return found
    else:
        return None
    archived = [e.signed for e in entries(lake_dir, table, known) if e.version <= version and e.signed is not None]
    return archived[-1] if archived else None
