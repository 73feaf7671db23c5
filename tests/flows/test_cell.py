"""What a cell makes of its settings before anything is connected."""

import importlib.util

import pytest

from flows.cell import Cell
from flows.settings import Settings
from flows.steps.equivalence import Comparison
from flows.steps.symbolic import Prover
from schemas.errors import RefusedError


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
