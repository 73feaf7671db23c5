"""The blob store: what is too large for Kafka, each once, under the sha256 of its bytes.

<store>/sha256/ab/cdef…     a blob; nothing else knows where it lies
"""

import hashlib
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from connectors.whole_files import sync
from schemas.blob import BlobReference
from schemas.errors import BadRecordError, RefusedError, TryAgainError

MAX_BLOB_BYTES = 64 << 20
"""More is not read into memory, whatever a reference says."""
CACHE_BYTES = 32 << 20
"""So much of what went through last is kept, so that the rounds of a task do not read its payload again and again."""
_MARK = b"blobs of Aureon\n"
"""A blob that every store has: without it the store itself is not there, an unmounted disk for example."""


class BlobStore:
    """A content-addressed store in a folder, or behind any URL that fsspec knows.

    Unit of parallelism: the blob; any number of processes and threads write and read at once. Guarantee: what `put` has
    returned for is there whole; in a folder it also survives a power cut. What `get` returns has the hash that it is
    named by. Replay: puts again what is there, which changes nothing.

    Args:
        url: a folder, or a URL such as `s3://bucket/blobs`. Passwords belong into fsspec's own configuration.
        cache_bytes: how much is kept in memory.

    Raises:
        RefusedError: no installed library knows such a URL.
    """

    def __init__(self, url: str, cache_bytes: int = CACHE_BYTES) -> None:
        self._shown, self._secret = _without_secret(url)
        if "://" in url.removeprefix("file://"):
            self._place: _Place = _FileSystem(url, self._shown)
        else:
            self._place = _Folder(Path(url.removeprefix("file://")))
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0
        self._cache_bytes = cache_bytes

    def __repr__(self) -> str:
        return f"BlobStore({self._shown!r})"

    def create(self) -> None:
        """Make the store, where there is none yet.

        Raises:
            TryAgainError: it cannot be reached.
        """
        with self._reached():
            self._place.keep(_path(hashlib.sha256(_MARK).hexdigest()), _MARK)

    def check(self) -> None:
        """See that the store is there.

        Raises:
            TryAgainError: it is not; an unmounted disk, for example.
        """
        with self._reached():
            mark = self._place.read(_path(hashlib.sha256(_MARK).hexdigest()), 1)
        if mark is None:
            raise TryAgainError(self._absent)

    @property
    def _absent(self) -> str:
        return f"there is no blob store at {self._shown}: AUREON_BLOBS says where it is; is it mounted?"

    def put(self, data: bytes) -> BlobReference:
        """Keep bytes; those that are there already stay as they are.

        Raises:
            TryAgainError: the store cannot be reached, or is full.
            ValueError: more than any store takes.
        """
        if len(data) > MAX_BLOB_BYTES:
            raise ValueError(f"{len(data):,} bytes; a blob may have {MAX_BLOB_BYTES:,}")
        digest = hashlib.sha256(data).hexdigest()
        reference = BlobReference(f"sha256-{digest}", len(data))
        if self._recall(reference.name) is None:
            self.check()  # a folder that is no store is where a disk would be mounted
            with self._reached():
                self._place.keep(_path(digest), data)
            self._remember(reference.name, data)
        return reference

    def get(self, reference: BlobReference) -> bytes:
        """Give the bytes that a reference stands for.

        Raises:
            BadRecordError: they are not there, or are others; the message names the blob.
            TryAgainError: the store cannot be reached.
        """
        name, size = reference.name, reference.size
        if size > MAX_BLOB_BYTES:
            raise BadRecordError(f"blob {name}: {size:,} bytes; a blob may have {MAX_BLOB_BYTES:,}")
        data = self._recall(name)
        if data is None:
            data = self._read(name, size)
            if hashlib.sha256(data).hexdigest() != name.removeprefix("sha256-"):
                raise BadRecordError(
                    f"blob {name} in the blob store {self._shown} is corrupt or longer than the {size:,} bytes that "
                    "its reference tells; delete it, and put it there again"
                )
            self._remember(name, data)
        if len(data) != size:
            raise BadRecordError(f"blob {name} has {len(data):,} bytes, and its reference tells of {size:,}")
        return data

    def read(self, name: str) -> bytes:
        """Give the bytes that have a name, `sha256-` and their hash.

        Raises:
            BadRecordError: they are not there, or are others; the message names the blob.
            TryAgainError: the store cannot be reached.
        """
        data = self._recall(name)
        if data is None:
            data = self._read(name, MAX_BLOB_BYTES)
            if hashlib.sha256(data).hexdigest() != name.removeprefix("sha256-"):
                raise BadRecordError(f"blob {name} in the blob store {self._shown} is corrupt; put it there again")
            self._remember(name, data)
        return data

    def take_from(self, other: "BlobStore") -> int:
        """Keep all that another store has; returns how many blobs that were.

        Raises:
            BadRecordError: a blob of the other store is corrupt; it is named.
            TryAgainError: one of the stores cannot be reached.
        """
        other.check()
        self.create()
        taken = 0
        with other._reached():
            digests = list(other._place.digests())
        for digest in digests:
            with self._reached():
                is_there = self._place.read(_path(digest), 1) is not None
            if not is_there:
                with other._reached():
                    data = other._place.read(_path(digest), MAX_BLOB_BYTES + 1) or b""
                if hashlib.sha256(data).hexdigest() != digest:
                    raise BadRecordError(f"blob sha256-{digest} in the blob store {other._shown} is corrupt")
                with self._reached():
                    self._place.keep(_path(digest), data)
                taken += 1
        return taken

    def _read(self, name: str, size: int) -> bytes:
        with self._reached():
            # one more than there should be: what is longer is noticed, and not read to its end
            data = self._place.read(_path(name.removeprefix("sha256-")), size + 1)
            is_store = data is not None or self._place.read(_path(hashlib.sha256(_MARK).hexdigest()), 1) is not None
        if data is not None:
            return data
        if is_store:
            raise BadRecordError(f"blob {name} is not in the blob store {self._shown}")
        raise TryAgainError(self._absent)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a file system of fsspec raises whatever its library does
            told = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            if self._secret:
                told = told.replace(self._secret, "…")
            raise TryAgainError(f"the blob store {self._shown} cannot be used: {told}") from None

    def _recall(self, name: str) -> bytes | None:
        with self._lock:
            data = self._cache.get(name)
            if data is not None:
                self._cache.move_to_end(name)
            return data

    def _remember(self, name: str, data: bytes) -> None:
        if len(data) > self._cache_bytes:
            return
        with self._lock:
            if name not in self._cache:
                self._cache[name] = data
                self._cached += len(data)
            while self._cached > self._cache_bytes:
                _, dropped = self._cache.popitem(last=False)
                self._cached -= len(dropped)


def _path(digest: str) -> str:
    return f"sha256/{digest[:2]}/{digest[2:]}"


def _without_secret(url: str) -> tuple[str, str]:
    """Leave out of an address what may be a password, and say what that was."""
    if "://" not in url:
        return url, ""
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    shown = url.partition("?")[0]
    return (shown.replace(user + at, "", 1) if at else shown), user.partition(":")[2]


class _Place(Protocol):
    """Where blobs lie."""

    def read(self, path: str, most: int) -> bytes | None:
        """Read at most so many bytes; None where there is nothing."""
        ...

    def keep(self, path: str, data: bytes) -> None:
        """Write, unless as many bytes are there."""
        ...

    def digests(self) -> Iterator[str]:
        """Name all blobs that are there."""
        ...


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def read(self, path: str, most: int) -> bytes | None:
        try:
            with (self._root / path).open("rb") as file:
                return file.read(most)
        except FileNotFoundError:
            return None

    def digests(self) -> Iterator[str]:
        for path in (self._root / "sha256").glob("??/*"):
            if not path.name.startswith("."):
                yield path.parent.name + path.name

    def keep(self, path: str, data: bytes) -> None:
        target = self._root / path
        try:
            is_there = target.stat().st_size == len(data)
        except FileNotFoundError:
            is_there = False
        if not is_there:
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{secrets.token_hex(16)}")
            try:
                with draft.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(target)
            finally:
                draft.unlink(missing_ok=True)
        # also of one that is there: whoever put it may not have come so far yet
        for folder in target.parents[:3]:
            sync(folder)


class _FileSystem:
    """What fsspec knows.

    A blob appears whole where the file system writes so, as object stores do; elsewhere one that was cut off is written
    again by the next `put`, since its size is another.
    """

    def __init__(self, url: str, shown: str) -> None:
        import fsspec  # noqa: PLC0415 - 0.1 s that only a URL costs

        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise RefusedError(f"AUREON_BLOBS={shown!r}: {error}") from None
        self._fs, self._root = found[0], found[1].rstrip("/")

    def read(self, path: str, most: int) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{path}", start=0, end=most)
        except FileNotFoundError:
            return None
        return data

    def digests(self) -> Iterator[str]:
        for path in self._fs.find(f"{self._root}/sha256"):
            folder, name = str(path).split("/")[-2:]
            if not name.startswith("."):  # a draft of somebody who has it as a folder
                yield folder + name

    def keep(self, path: str, data: bytes) -> None:
        target = f"{self._root}/{path}"
        try:
            if self._fs.info(target)["size"] == len(data):
                return
        except FileNotFoundError:
            pass
        try:
            self._fs.pipe_file(target, data)
        except FileNotFoundError:  # object stores have no folders to make
            self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(target, data)
