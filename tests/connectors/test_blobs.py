"""The blob store: what is put comes back, or an error names it."""

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import blobs
from connectors.blobs import MAX_BLOB_BYTES, BlobStore
from schemas.blob import REFERENCE_START, SHORTEST_REFERENCE, BlobReference, read_reference, reference_in
from schemas.errors import BadRecordError, RefusedError, TryAgainError
from schemas.task import encode

DATA = b"what is large" * 1000
NOWHERE = BlobReference("sha256-" + "0" * 64, 5)


@pytest.fixture(params=["folder", "file", "memory", "local"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a store, of each kind."""
    return {
        "folder": str(tmp_path / "blobs"),
        "file": f"file://{tmp_path}/blobs",
        "memory": f"memory://{uuid4()}",
        "local": f"local://{tmp_path}/blobs",  # by fsspec, where folders have to be made first
    }[request.param]


def created(url: str, cache_bytes: int = 0) -> BlobStore:
    """A store that is there."""
    made = BlobStore(url, cache_bytes)
    made.create()
    return made


@pytest.fixture
def store(url: str) -> BlobStore:
    """A store with nothing in it, that keeps nothing in memory."""
    return created(url)


def blob_file(store: Path, reference: BlobReference) -> Path:
    """Where a blob lies in a folder."""
    digest = reference.name.removeprefix("sha256-")
    return store / "sha256" / digest[:2] / digest[2:]


def files(folder: Path) -> set[Path]:
    """All that are below it."""
    return {p for p in folder.rglob("*") if p.is_file()}


def test_what_is_put_comes_back_under_its_hash(store: BlobStore) -> None:
    """Twice is once."""
    reference = store.put(DATA)
    assert reference == store.put(DATA) == BlobReference(f"sha256-{hashlib.sha256(DATA).hexdigest()}", len(DATA))
    assert store.get(reference) == DATA


@given(data=st.binary(min_size=1, max_size=200))
def test_any_bytes_come_back(data: bytes) -> None:
    """Whatever they are; and what is in memory is the same."""
    for cache_bytes in (0, 1 << 20):
        store = created("memory://any", cache_bytes)
        assert store.get(store.put(data)) == data


def test_another_process_finds_it(url: str, store: BlobStore) -> None:
    """Nothing is kept beside the blobs themselves."""
    assert BlobStore(url).get(store.put(DATA)) == DATA


def test_a_blob_that_is_not_there_is_a_bad_record_that_names_it(store: BlobStore) -> None:
    """And the store."""
    with pytest.raises(BadRecordError, match=rf"blob {NOWHERE.name} is not in the blob store \S*blobs|memory"):
        store.get(NOWHERE)


def test_a_store_that_is_not_there_is_no_missing_blob(url: str) -> None:
    """An unmounted disk must not make dead letters of all that refers to it, nor hide what is put meanwhile."""
    for step in (lambda: BlobStore(url).get(NOWHERE), lambda: BlobStore(url).put(DATA)):
        with pytest.raises(TryAgainError, match=r"there is no blob store at .*AUREON_BLOBS"):
            step()


@pytest.mark.parametrize("spoilt", [DATA[:-1], DATA + b"!", b"", b"!" + DATA[1:]])
def test_a_spoilt_blob_is_a_bad_record_that_names_it(tmp_path: Path, spoilt: bytes) -> None:
    """Cut off, longer, empty, or other bytes."""
    store = created(str(tmp_path))
    reference = store.put(DATA)
    blob_file(tmp_path, reference).write_bytes(spoilt)
    with pytest.raises(BadRecordError, match=rf"blob {reference.name} .* corrupt"):
        store.get(reference)


def test_a_blob_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    """Its size tells."""
    store = created(str(tmp_path))
    reference = store.put(DATA)
    blob_file(tmp_path, reference).write_bytes(DATA[:100])
    assert store.get(store.put(DATA)) == DATA


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_reference_with_another_size_is_a_bad_record(tmp_path: Path, cache_bytes: int) -> None:
    """Also where the bytes are in memory."""
    store = created(str(tmp_path), cache_bytes)
    reference = store.put(DATA)
    with pytest.raises(BadRecordError, match=r"has 13,000 bytes, and its reference tells of 13,001"):
        store.get(msgspec.structs.replace(reference, size=len(DATA) + 1))


def test_what_is_too_large_for_any_store_is_neither_put_nor_read(store: BlobStore) -> None:
    """Whatever a reference says, memory is bounded."""
    with pytest.raises(ValueError, match="a blob may have"):
        store.put(bytes(MAX_BLOB_BYTES + 1))
    with pytest.raises(BadRecordError, match="a blob may have"):
        store.get(msgspec.structs.replace(NOWHERE, size=MAX_BLOB_BYTES + 1))


def test_a_store_that_cannot_be_used_says_so_and_what_for(tmp_path: Path) -> None:
    """The same step may go through later."""
    (tmp_path / "blobs").write_text("no folder")
    store = BlobStore(str(tmp_path / "blobs"))
    for step in (store.create, lambda: store.put(DATA), lambda: store.get(NOWHERE)):
        with pytest.raises(
            TryAgainError, match=rf"the blob store {tmp_path}/blobs cannot be used: (Not a dir|File ex)"
        ):
            step()


def test_no_half_written_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does anybody see one under its name."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    store = created(str(tmp_path))
    there = files(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TryAgainError, match="No space left on device"):
        store.put(DATA)
    assert files(tmp_path) == there


def test_many_may_put_and_get_the_same_at_once(tmp_path: Path) -> None:
    """Each has all of it as soon as its own put is done."""
    count = 8
    barrier = threading.Barrier(count)

    def put_and_get(data: bytes) -> bool:
        store = created(str(tmp_path))
        barrier.wait()
        return store.get(store.put(data)) == data

    with ThreadPoolExecutor(count) as pool:
        for i in range(20):
            assert all(pool.map(put_and_get, [DATA + b"%d" % i] * count))
    assert len(files(tmp_path)) == 20 + 1  # the store's mark


def test_what_was_read_last_is_kept_in_memory_up_to_a_limit(tmp_path: Path) -> None:
    """The oldest goes first."""
    store = created(str(tmp_path), cache_bytes=2 * len(DATA) + 2)
    references = [store.put(DATA + b"%d" % i) for i in range(2)]
    for reference in references:
        blob_file(tmp_path, reference).unlink()
        assert store.get(reference)
    references.append(store.put(DATA + b"2"))
    assert store.get(references[1])
    with pytest.raises(BadRecordError, match="is not in the blob store"):
        store.get(references[0])


@pytest.mark.parametrize(
    "name", ["sha256-../../etc", "sha256-" + "0" * 63, "md5-" + "0" * 64, "sha256-" + "0" * 64 + "\n"]
)
def test_a_reference_names_a_hash_and_nothing_else(name: str) -> None:
    """No path can be told by it."""
    with pytest.raises(BadRecordError, match=r"no reference to a blob: .*`\$\.payload\.\$blob`"):
        read_reference(msgspec.json.encode({"$blob": name, "bytes": 5}))


@pytest.mark.parametrize("payload", [b"{}", b'{"prompt":5}', b"[]", b'"x"', b'{"bytes":5}', b"\xff", b"{"])
def test_what_is_not_meant_as_a_reference_is_none(payload: bytes) -> None:
    """What is wrong with it is for others to say."""
    assert read_reference(payload) is None


@given(size=st.integers(min_value=1, max_value=(1 << 63) - 1), digest=st.binary(min_size=32, max_size=32))
def test_a_reference_is_read_as_it_was_written(size: int, digest: bytes) -> None:
    """In a text as in a payload, and it is never shorter than it is said to be."""
    reference = BlobReference(f"sha256-{digest.hex()}", size)
    written = encode(reference)
    assert read_reference(written) == reference_in(written.decode()) == reference
    assert written.decode().startswith(REFERENCE_START)
    assert len(written) >= SHORTEST_REFERENCE


def test_an_address_that_no_library_knows_is_refused() -> None:
    """By what would help."""
    with pytest.raises(RefusedError, match=r"AUREON_BLOBS='carrier-pigeon://.*"):
        BlobStore("carrier-pigeon://coop/blobs")


def test_no_error_tells_the_password_in_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does its repr."""
    store = BlobStore("memory://anna:opensesame@host/blobs?token=alibaba")

    def fails(*_: object) -> None:
        raise RuntimeError("no route to anna:opensesame@host")

    monkeypatch.setattr(blobs._FileSystem, "read", fails)
    steps: list[Callable[[], object]] = [lambda: store.get(NOWHERE), lambda: pytest.fail(repr(store))]
    for step in steps:
        with pytest.raises((TryAgainError, pytest.fail.Exception)) as failure:
            step()
        assert "host/blobs" in str(failure.value)
        assert "opensesame" not in str(failure.value)
        assert "alibaba" not in str(failure.value)


def test_what_is_asked_for_by_its_name_alone_comes_back(tmp_path: Path) -> None:
    """From memory where it is, and never other bytes."""
    store = created(str(tmp_path), 1 << 20)
    reference = store.put(DATA)
    blob_file(tmp_path, reference).write_bytes(b"other bytes")
    assert store.read(reference.name) == DATA
    with pytest.raises(BadRecordError, match=rf"blob {reference.name} in .* is corrupt; put it there again"):
        BlobStore(str(tmp_path)).read(reference.name)


def test_a_store_takes_what_another_one_has(url: str, store: BlobStore, tmp_path: Path) -> None:
    """Whole blobs, those that it lacks; what a process that was killed has left there is none."""
    references = [store.put(DATA + b"%d" % i) for i in range(3)]
    mine = created(str(tmp_path / "mine"))
    mine.put(DATA + b"0")
    if not url.startswith("memory://"):
        blob_file(tmp_path / "blobs", references[1]).with_name(".draft").write_bytes(b"half")
    assert mine.take_from(store) == 2
    assert [mine.get(reference) for reference in references] == [DATA + b"%d" % i for i in range(3)]


def test_a_spoilt_blob_is_not_taken_from_another_store(tmp_path: Path) -> None:
    """It is named."""
    other, mine = created(str(tmp_path / "other")), BlobStore(str(tmp_path / "mine"))
    reference = other.put(DATA)
    blob_file(tmp_path / "other", reference).write_bytes(DATA[:-1])
    with pytest.raises(BadRecordError, match=rf"blob {reference.name} in the blob store .*other is corrupt"):
        mine.take_from(other)
    assert not blob_file(tmp_path / "mine", reference).exists()


def test_a_blob_that_was_cut_off_behind_a_url_is_written_again() -> None:
    """And one that is whole is not."""
    store = created(f"memory://{uuid4()}")
    reference = store.put(DATA)
    assert isinstance(store._place, blobs._FileSystem)
    path = f"{store._place._root}/sha256/{reference.name[7:9]}/{reference.name[9:]}"
    store._place._fs.pipe_file(path, DATA[:100])
    store.put(DATA)
    assert store.get(reference) == DATA
    written = store._place._fs.modified(path)
    store.put(DATA)
    assert store._place._fs.modified(path) == written
