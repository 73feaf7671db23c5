"""How near two texts are in meaning; on the vectors themselves, where the extra `embeddings` is installed."""

import importlib.util
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.embeddings import Alike
from schemas.errors import RefusedError

INSTALLED = importlib.util.find_spec("wordllama") is not None
needs_vectors = pytest.mark.skipif(not INSTALLED, reason="the extra `embeddings` is not installed")


@pytest.mark.parametrize("is_there", [False, True])
def test_without_the_extra_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    """At the start, not with the first text; also where the package is there without its files."""
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)]) if is_there else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: found)
    with pytest.raises(RefusedError, match="pip install 'aureon\\[embeddings\\]'"):
        Alike(0.9)


@needs_vectors
@pytest.mark.parametrize(
    "a, b",
    [
        ("the big dog ran quickly", "the large dog ran fast"),
        ("the mitochondria produce energy for the cell", "mitochondria generate energy for cells"),
        ("hello world", "hello world"),
    ],
)
def test_texts_of_one_meaning_are_alike(a: str, b: str) -> None:
    """In any order of the two."""
    alike = Alike(0.8)
    assert alike(a, b)
    assert alike(b, a)


@needs_vectors
@pytest.mark.parametrize(
    "a, b",
    [
        ("it is safe", "it is not safe"),
        ("it is safe", "it isn't safe"),
        ("it is legal", "it is illegal"),
        ("he has 3 cats", "he has 4 cats"),
        ("he has three cats", "he has four cats"),
        ("the war began in 1914", "the war began in 1939"),
        ("dog bites man", "man bites dog"),
        ("mix acid into water", "mix water into acid"),
        ("the temperature increases", "the temperature decreases"),
        ("it turns to the left", "it turns to the right"),
        ("the answer is paris", "the answer is london"),
        ("shakespeare wrote hamlet", "marlowe wrote hamlet"),
        ("the patient is alive", "the patient is dead"),
        ("buy shares", "sell shares"),
        ("", "x"),
        ("...", "???"),
        ("x " * 2000, "x " * 2001),
    ],
)
def test_texts_that_differ_where_it_matters_are_not(a: str, b: str) -> None:
    """Numbers, negations, opposites, names, and the order of words, which the vectors know little of."""
    alike = Alike(0.8)
    assert not alike(a, b)
    assert not alike(b, a)


@needs_vectors
@given(st.text(max_size=60), st.text(max_size=60))
def test_it_does_not_depend_on_the_order(a: str, b: str) -> None:
    """Nor fails, whatever the texts are."""
    alike = Alike(0.5)
    assert alike(a, b) == alike(b, a)


@pytest.mark.unmeasured
@needs_vectors
def test_long_texts_take_no_time() -> None:
    """Up to the limit they are bounded, and beyond it not looked at."""
    alike = Alike(0.9)
    words = " ".join(f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(400))
    alike("a b", "c d")
    started = time.process_time()
    alike(words, words.replace("w", "v"))
    alike("x" * 1_000_000, "y" * 1_000_000)
    assert time.process_time() - started < 1.0
