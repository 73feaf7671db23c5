"""What a cell makes of its settings before anything is connected."""

import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.cell import Cell, cluster_key
from flows.settings import Settings
from flows.steps.equivalence import Comparison
from flows.steps.symbolic import Prover
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


def test_answers_are_compared_as_the_settings_say() -> None:
    """A prover starts nothing before its first question, and is closed with the cell."""
    assert Cell(Settings(symbolic_s=0)).rules.comparison == Comparison()
    cell = Cell(Settings())
    assert isinstance(cell.rules.comparison.proof, Prover)
    assert cell.rules.comparison.alike is None
    cell.close()


@pytest.mark.skipif(importlib.util.find_spec("wordllama") is not None, reason="the extra `embeddings` is installed")
def test_a_similarity_without_the_extra_is_refused() -> None:
    """With the cure, before any task is read."""
    with pytest.raises(RefusedError, match="needs the extra `embeddings`"):
        _ = Cell(Settings(text_similarity=0.9)).rules.comparison
