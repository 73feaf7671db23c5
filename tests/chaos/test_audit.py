"""The loss audit of `make chaos`, short, on the embedded broker, which is not killed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.run import run

SEED = 1


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_nothing_is_lost_whatever_fails(tmp_path: Path, figures: Callable[[str], None]) -> None:
    """One fault of every kind that can be had here, in the order of a seed."""
    result = run(tmp_path / "cluster", "embedded", SEED, each=1, more=0, rate=12.0)
    figures(result.table())
    assert result.is_clean, result.table()
    assert len(result.timeline.faults) >= 11
    assert result.audit.poison == 1
    assert result.vitals.held.keys() == {"cell 1", "cell 2", "cell 3", "root"}
