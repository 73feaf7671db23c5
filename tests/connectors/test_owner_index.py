"""The index of ids on its file."""

import logging
import os
import sqlite3
import time
from pathlib import Path

import pytest

from connectors.owner_index import INDEX_VERSION, OwnerIndex
from schemas.errors import RefusedError
from schemas.ids import Owner

A, B = b"a" * 16, b"b" * 16
ONE, TWO = Owner("tasks.global", 1, "x"), Owner("tasks.global", 2, "y")


def test_what_was_flushed_is_there_after_a_crash_and_what_was_not_is_not(tmp_path: Path) -> None:
    """The index says for which part of the log it stands."""
    index = OwnerIndex(tmp_path / "i.sqlite")
    assert (index.is_new, index.next_offset) == (True, 0)
    index.put(A, ONE)
    index.flush(5)
    index.put(B, TWO)
    assert index.get(B) == TWO
    index.close()
    again = OwnerIndex(tmp_path / "i.sqlite")
    assert (again.is_new, again.next_offset) == (False, 5)
    assert again.get(A) == ONE
    assert again.get(B) is None
    again.close()


def test_the_first_owner_stays(tmp_path: Path) -> None:
    """A replay puts again what is there."""
    index = OwnerIndex(tmp_path / "i.sqlite")
    index.put(A, ONE)
    index.flush(5)
    index.put(A, TWO)
    index.flush(3)
    assert index.next_offset == 5
    index.close()
    again = OwnerIndex(tmp_path / "i.sqlite")
    assert again.get(A) == ONE
    again.close()


def test_what_was_looked_up_ahead_is_never_older_than_the_index(tmp_path: Path) -> None:
    """Whatever is noted, kept or taken from elsewhere between the look ahead and the question."""
    index = OwnerIndex(tmp_path / "i.sqlite")
    index.put(A, ONE)
    index.flush(5)
    index.look_ahead([A, B])
    assert (index.get(A), index.get(B)) == (ONE, None)
    index.put(B, TWO)
    assert index.get(B) == TWO
    index.flush(6)
    assert (index.get(A), index.get(B)) == (ONE, TWO)
    index.look_ahead([key(3)])
    assert (index.get(A), index.get(key(3))) == (ONE, None)
    index.catch_up(iter([(key(3), TWO)]), 9)
    assert index.get(key(3)) == TWO
    index.look_ahead([])
    assert index.get(A) == ONE
    index.close()


def test_two_processes_never_share_a_lane(tmp_path: Path) -> None:
    """The second is told that each cell needs its own folder."""
    index = OwnerIndex(tmp_path / "i.sqlite")
    with pytest.raises(RefusedError, match="its own state folder"):
        OwnerIndex(tmp_path / "i.sqlite")
    index.close()


def test_an_index_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """Its keys may mean something else."""
    OwnerIndex(tmp_path / "i.sqlite").close()
    with sqlite3.connect(tmp_path / "i.sqlite") as db:
        db.execute(f"PRAGMA user_version = {INDEX_VERSION + 1}")
    db.close()
    with pytest.raises(RefusedError, match=rf"i\.sqlite has version {INDEX_VERSION + 1}, .* a newer Aureon wrote it"):
        OwnerIndex(tmp_path / "i.sqlite")


def test_an_index_takes_from_elsewhere_what_it_lacks(tmp_path: Path) -> None:
    """In log order; the first one owns, and what it has stays."""
    index = OwnerIndex(tmp_path / "i.sqlite")
    index.catch_up(iter([(A, ONE), (A, TWO)]), 4)
    assert (index.get(A), index.next_offset) == (ONE, 4)
    index.catch_up(iter([(A, TWO), (B, TWO)]), 9)
    assert (index.get(A), index.get(B), index.next_offset) == (ONE, TWO, 9)
    index.close()


class Copying(OwnerIndex):
    """Leaves a copy early and often."""

    COPY_AFTER = 3
    COPY_EVERY_S = 0.0
    COPY_SHARE = 1.0


def key(number: int) -> bytes:
    """Of one id."""
    return number.to_bytes(16, "big")


def filled(folder: Path, copy: Path | None, count: int) -> Copying:
    """An index of so many ids, the id of entry n being n."""
    index = Copying(folder / "i.sqlite", copy)
    for number in range(index.next_offset, count):
        index.put(key(number), Owner("tasks.global", number, "x"))
    index.flush(count)
    return index


def wait_for(copy: Path) -> None:
    """Until there is a copy."""
    deadline = time.monotonic() + 60
    while not copy.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_another_cell_goes_on_with_the_copy(tmp_path: Path) -> None:
    """It knows what the first one had flushed by then, and takes it from there."""
    copy = tmp_path / "lake" / "owners" / "lane-0000.sqlite"
    copy.parent.parent.mkdir()
    first = filled(tmp_path / "a", copy, 50)
    wait_for(copy)
    other = Copying(tmp_path / "b" / "i.sqlite", copy)
    assert (other.is_new, other.next_offset) == (False, 50)
    assert all(other.get(key(number)) == Owner("tasks.global", number, "x") for number in range(50))
    other.put(key(50), ONE)
    other.flush(51)
    other.close()
    first.close()
    again = OwnerIndex(tmp_path / "b" / "i.sqlite")
    assert (again.get(key(49)), again.get(key(50)), again.next_offset) == (Owner("tasks.global", 49, "x"), ONE, 51)
    again.close()
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["i.lock", "i.sqlite"]


def test_a_copy_that_is_not_well_ahead_is_left_alone(tmp_path: Path) -> None:
    """What a cell knows itself is not thrown away for it."""
    copy = tmp_path / "owners" / "lane-0000.sqlite"
    first = filled(tmp_path / "a", copy, 50)
    wait_for(copy)
    first.close()
    filled(tmp_path / "b", None, 48).close()
    own = Copying(tmp_path / "b" / "i.sqlite", copy)
    assert own.next_offset == 48
    assert own.get(key(49)) is None
    own.close()


def test_the_next_copy_waits_for_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much has come since: copying takes the disk from those who work."""
    monkeypatch.setattr(Copying, "COPY_EVERY_S", 1000.0)
    copy = tmp_path / "owners" / "lane-0000.sqlite"
    index = filled(tmp_path / "a", copy, 50)
    assert index._copying is not None
    index._copying.join()
    copy.unlink()
    index.put(key(50), ONE)
    index.flush(100)
    index._copying.join()
    assert not copy.exists()
    index.close()


def test_a_copy_is_of_one_moment(tmp_path: Path) -> None:
    """What is flushed while it is made is not in it, and comes into the next."""
    copy = tmp_path / "owners" / "lane-0000.sqlite"
    index = Copying(tmp_path / "a" / "i.sqlite", copy)
    seen: set[int] = set()
    count = 0
    deadline = time.monotonic() + 60
    while len(seen) < 5:
        assert time.monotonic() < deadline
        for number in range(count, count + 5_000):
            index.put(key(number), Owner("tasks.global", number, "x"))
        count += 5_000
        index.flush(count)
        assert index.get(key(count - 1)) is not None
        assert index.get(key(0)) is not None
        if copy.exists():
            taken = Copying(tmp_path / f"b{count}" / "i.sqlite", copy)
            seen.add(taken.next_offset)
            (held,) = taken._db.execute("SELECT count(*) FROM owners").fetchone()
            assert held == taken.next_offset
            taken.close()
    index.close()


DAMAGES = "cut short", "no database", "overwritten", "another version", "empty", "says nothing"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_told_and_left_alone(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """The index is made without it."""
    copy = tmp_path / "owners" / "lane-0000.sqlite"
    filled(tmp_path / "a", copy, 5_000).close()
    if not copy.exists():  # closing had ended it
        index = filled(tmp_path / "a", copy, 5_010)
        wait_for(copy)
        index.close()
    whole = copy.read_bytes()
    if damage == "another version":
        db = sqlite3.connect(copy)
        db.execute("ALTER TABLE owners ADD COLUMN more TEXT")
        db.close()
    elif damage == "says nothing":
        db = sqlite3.connect(copy, isolation_level=None)
        db.execute("DELETE FROM meta")
        db.close()
    else:
        damaged = {
            "cut short": whole[: len(whole) // 2],
            "no database": b"x" * len(whole),
            "overwritten": whole[:8192] + b"\xff" * 40_000 + whole[48_192:],
            "empty": b"",
        }
        copy.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        index = Copying(tmp_path / "b" / "i.sqlite", copy)
    assert (index.is_new, index.next_offset) == (True, 0)
    assert "cannot be gone on with" in caplog.text
    assert str(copy) in caplog.text
    index.put(A, ONE)
    index.flush(1)
    assert index.get(A) == ONE
    index.close()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["i.lock", "i.sqlite"]


def test_where_no_copy_can_be_left_the_lane_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk, or a folder that is gone, is told and costs nothing but the copy."""
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        index = filled(tmp_path / "a", tmp_path / "file" / "owners" / "lane-0000.sqlite", 50)
        deadline = time.monotonic() + 60
        while "no copy" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    index.put(key(50), ONE)
    index.flush(51)
    index.close()
    again = OwnerIndex(tmp_path / "a" / "i.sqlite")
    assert again.next_offset >= 50
    again.close()


def test_what_killed_processes_left_of_copies_is_removed(tmp_path: Path) -> None:
    """After an hour, when nobody writes it any more."""
    copy = tmp_path / "owners" / "lane-0000.sqlite"
    copy.parent.mkdir()
    stale, fresh = copy.with_name(f"{copy.name}.1"), copy.with_name(f"{copy.name}.2")
    stale.touch()
    fresh.touch()
    os.utime(stale, (time.time() - 7200,) * 2)
    index = filled(tmp_path / "a", copy, 50)
    wait_for(copy)
    index.close()
    assert not stale.exists()
    assert fresh.exists()
