"""What was found once is tried again, and a little is looked for anew: each input within a second of the processor."""

import string
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import corpus
from tests.fuzz.__main__ import WATCHED, main
from tests.fuzz.limits import TooSlowError, run
from tests.fuzz.mutate import json_mutant
from tests.fuzz.targets import TARGETS

ODD = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"{}",
    b"[]",
    b"null",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"9" * 5000,
    b"1e999",
    b"-0",
    b"NaN",
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    "\u2028\ufeff\u202e\U0010ffff".encode(),
    b"(" * 3000 + b")" * 3000,
    b"9**9**9**9",
    b"a = " + b"{a=" * 2000,
)
"""What breaks readers of all kinds."""
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(string.ascii_letters), inner, max_size=4),
    max_leaves=12,
)


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Bytes, texts and documents as they come, and inputs of the corpus that are no longer what they were."""
    known = corpus.read(name)
    return st.one_of(
        st.binary(max_size=300),
        st.text(max_size=300).map(str.encode),
        DOCUMENTS.map(msgspec.json.encode),
        st.builds(_mutant, st.sampled_from(known), st.integers(0, 1 << 32)),
        st.builds(_spliced, st.sampled_from(known), st.sampled_from(known), st.integers(0, 500), st.integers(0, 500)),
    )


def _mutant(data: bytes, seed: int) -> bytes:
    return json_mutant(data, corpus.LONGEST, seed) or data[: seed % (len(data) + 1)]


def _spliced(one: bytes, other: bytes, at: int, behind: int) -> bytes:
    return one[:at] + other[behind:]


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_breaks_nothing(name: str) -> None:
    """Each input of the corpus, and what breaks readers of all kinds."""
    known = corpus.read(name)
    assert known, "a target begins with inputs that it takes"
    for data in (*known, *ODD):
        run(TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_comes_breaks_a_decoder(name: str) -> None:
    """A few dozen inputs of any kind; `make fuzz` tries as many as there is time for."""

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(inputs(name))
    def tried(data: bytes) -> None:
        run(TARGETS[name], data)

    tried()


def test_a_target_that_breaks_is_noticed_and_so_is_one_that_is_slow() -> None:
    """Otherwise all of this would say nothing."""

    def slow(data: bytes) -> None:
        for _ in range(len(data)):
            sum(range(20_000))

    def broken(data: bytes) -> None:
        raise ZeroDivisionError(data)

    with pytest.raises(ZeroDivisionError):
        run(broken, b"x")
    run(slow, b"")
    with pytest.raises(TooSlowError, match="100 bytes"):
        run(slow, bytes(100), limit_s=0.001)


def test_the_corpus_holds_any_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a text where it is one; short ones first, each once."""
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)
    corpus.write("x", [b"\xff\xfe", b"", b'{"a": 1}', b""])
    assert corpus.read("x") == [b"", b"\xff\xfe", b'{"a": 1}']
    assert corpus.read("y") == []


def test_a_mutant_of_a_document_is_one_and_the_same_seed_gives_the_same() -> None:
    """So that a fuzzer can go on from it, and a failure can be found again."""
    document = b'{"a": [1, {"b": "text"}], "c": null}'
    mutants = {json_mutant(document, 4096, seed) for seed in range(100)}
    assert len(mutants) > 50
    assert json_mutant(document, 4096, 3) == json_mutant(document, 4096, 3)
    assert json_mutant(b"no document", 4096, 3) is None


def test_each_target_says_whose_coverage_guides_it() -> None:
    """And there is nothing to guide that is no target."""
    assert set(WATCHED) == set(TARGETS)


def test_a_target_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With those that there are."""
    monkeypatch.setattr("sys.argv", ["tests.fuzz", "nothing"])
    with pytest.raises(SystemExit):
        main()
    assert "there are: task, nodes_file" in capsys.readouterr().err
