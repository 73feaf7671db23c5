"""What the processes of a cluster share."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.cluster import belongs_to, cluster_key
from schemas.errors import RefusedError


def test_processes_that_begin_a_cluster_at_once_read_the_same_key(tmp_path: Path) -> None:
    """Whoever finds the file finds all of it."""
    count = 4
    barrier = threading.Barrier(count)

    def begin(path: Path) -> bytes:
        barrier.wait()
        return cluster_key(path)

    with ThreadPoolExecutor(count) as pool:
        for i in range(100):
            path = tmp_path / str(i) / "cluster.key"
            assert len(set(pool.map(begin, [path] * count))) == 1
            assert [p.name for p in path.parent.iterdir()] == ["cluster.key"]
            assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_holds_no_key_is_refused(tmp_path: Path) -> None:
    """It is never replaced: records that were sealed with the right one need it."""
    path = tmp_path / "cluster.key"
    path.write_text("not a key")
    with pytest.raises(RefusedError, match="64 hex digits"):
        cluster_key(path)
    assert path.read_text() == "not a key"


def test_a_folder_that_cannot_be_made_is_told_with_its_setting(tmp_path: Path) -> None:
    """A file is where a folder of its path would have to be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RefusedError, match=r"the lake .*/file/lake cannot be made: Not a directory; set AUREON_LAKE to"
    ):
        belongs_to(tmp_path / "file" / "lake", "one", "lake", "AUREON_LAKE")
