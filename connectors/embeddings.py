"""How near two texts are in meaning, by the vectors that come with `wordllama`: the extra `embeddings`.

Only its files are read, the vectors (16 MB) and the tokenizer: the library itself would load a client for downloads. A
text is the mean of the vectors of its words, which knows nothing of their order, and little of what is *not*. So two
texts mean the same only where

- they are near as a whole,
- each word that one has and the other has not is near to some word that the other has and it has not,
- their numbers and their negations are the same, and
- they are not the same words in another order.
"""

import importlib.util
import json
import re
import threading
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from connectors.nodes.quantities import WORDS
from schemas.errors import RefusedError

MAX_LENGTH = 2_000
"""Characters of a text; longer ones are never compared by meaning."""
DIMENSIONS = 256
MAX_KEPT = 4096
"""Texts and words whose vectors are remembered."""
WORD_SHARE = 0.6
"""How near words have to be that stand for each other, as a share of what is asked of the texts."""

_WORD = re.compile(r"[^\W_]+(?:['’.,:][^\W_]+)*", re.UNICODE)  # noqa: RUF001 - an apostrophe, as typesetters write it
_NEGATING = """
no not never none nobody nothing neither nor without cannot false incorrect wrong unable fail fails failed hardly
"""
_NEGATIONS = frozenset(_NEGATING.split())
_OPPOSED = (
    ("more", "less", "fewer"),
    ("increase", "decrease"),
    ("increases", "decreases"),
    ("increased", "decreased"),
    ("rises", "falls"),
    ("up", "down"),
    ("left", "right"),
    ("before", "after"),
    ("above", "below"),
    ("over", "under"),
    ("first", "last"),
    ("always", "sometimes", "never"),
    ("all", "some"),
    ("hot", "cold"),
    ("alive", "dead"),
    ("buy", "sell"),
    ("open", "closed"),
    ("good", "bad"),
    ("north", "south", "east", "west"),
    ("positive", "negative"),
    ("true", "false"),
    ("yes", "no"),
    ("min", "max"),
    ("minimum", "maximum"),
    ("and", "or"),
)
_SIDES = {word: (place, side) for place, words in enumerate(_OPPOSED) for side, word in enumerate(words)}
_DENYING = ("un", "in", "im", "il", "ir", "dis", "non", "mis", "anti")
_SMALL_WORDS = """
a an the is are was were be been being am it its of in on at to for by with from as that this these those there has
have had do does did will would can could should may and or so which who what he she they we you i their his her
"""
_LITTLE = frozenset(_SMALL_WORDS.split())


class Alike:
    """Tells whether two texts mean the same.

    Args:
        least: how near they have to be, from 0 to 1: the cosine of their vectors.

    Raises:
        RefusedError: `wordllama` is not installed.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._vectors = Vectors()

    def __call__(self, a: str, b: str) -> bool:
        """Compare two texts; the same in any order of the two."""
        if max(len(a), len(b)) > MAX_LENGTH:
            return False
        of_a, of_b = _WORD.findall(a.casefold()), _WORD.findall(b.casefold())
        if not of_a or not of_b or _guarded(of_a) != _guarded(of_b):
            return False
        only_a, only_b = _only(of_a, of_b), _only(of_b, of_a)
        if not only_a and not only_b:  # the same words
            return of_a == of_b
        if any(
            opposite in others for words, others in ((only_a, of_b), (only_b, of_a)) for opposite in _opposites(words)
        ):
            return False
        if not (self._answered(only_a, of_b) and self._answered(only_b, of_a)):
            return False
        return self._vectors.nearness(a, b) >= self._least

    def _answered(self, words: list[str], others: list[str]) -> bool:
        """Tell whether each word has a near one among the others."""
        least = self._least * WORD_SHARE
        return all(any(self._vectors.nearness(word, other) >= least for other in set(others)) for word in words)


def _guarded(words: list[str]) -> tuple[Counter[str], int, list[tuple[int, int]]]:
    """What has to be the same in both: the numbers, how much is denied, and which of two opposites is meant."""
    numbers = Counter(str(WORDS.get(word, word)) for word in words if word in WORDS or any(map(str.isdigit, word)))
    denied = sum(word in _NEGATIONS or word.endswith(("n't", "n’t")) for word in words)  # noqa: RUF001
    return numbers, denied, sorted(_SIDES[word] for word in words if word in _SIDES)


def _opposites(words: list[str]) -> set[str]:
    """What `illegal` and `unsafe` are the opposite of."""
    return {word.removeprefix(prefix) for word in words for prefix in _DENYING if word.startswith(prefix)}


def _only(words: list[str], others: list[str]) -> list[str]:
    there = set(others)
    return [word for word in dict.fromkeys(words) if word not in there and word not in _LITTLE][:64]


def _files() -> tuple[Path, Path]:
    found = importlib.util.find_spec("wordllama")
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        vectors = Path(place) / "weights" / "l2_supercat_256.safetensors"
        tokenizer = Path(place) / "tokenizers" / "l2_supercat_tokenizer_config.json"
        if vectors.exists() and tokenizer.exists():
            return vectors, tokenizer
    raise RefusedError(
        "comparing texts by meaning (AUREON_TEXT_SIMILARITY, --similar) needs the extra `embeddings`: "
        "pip install 'aureon[embeddings]'"
    )


class Vectors:
    """The vectors of texts; the files are read at the first one.

    Raises:
        RefusedError: `wordllama` is not installed.
    """

    def __init__(self) -> None:
        self._files = _files()
        self._lock = threading.Lock()
        self._table: Any = None
        self._tokenizer: Any = None
        self._of = lru_cache(maxsize=MAX_KEPT)(self.of)

    def nearness(self, a: str, b: str) -> float:
        """The cosine between two texts."""
        return float(self._of(a) @ self._of(b))

    def of(self, text: str) -> Any:
        """The vector of a text, of length 1 (0 if it has no word): `DIMENSIONS` numbers, float32."""
        with self._lock:
            if self._table is None:
                self._load()
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        total = self._table[ids].astype("float32").sum(axis=0)
        length = float((total @ total) ** 0.5)
        return total / length if length else total

    def _load(self) -> None:
        import numpy as np  # noqa: PLC0415 - these come with the extra
        import tokenizers  # noqa: PLC0415

        vectors, tokenizer = self._files
        with vectors.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            at = file.tell()
        entry = header["embedding.weight"]
        kind = {"F16": "<f2", "F32": "<f4"}[entry["dtype"]]
        shape = tuple(entry["shape"])
        self._table = np.memmap(vectors, kind, "r", at + entry["data_offsets"][0], shape)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
