"""Records found by their words, and by what they mean; the index keeps up with the lake."""

import importlib.util
import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import one_lake
from flows import cli
from one_lake import tables
from one_lake.as_of import moment
from one_lake.merge import merge
from one_lake.sealed_table import SealedTable
from one_lake.search import SearchIndex, When
from schemas.errors import RefusedError
from tests.one_lake.lake_data import lake_writer, record, round_row
from tests.one_lake.lakes_apart import MERGING, converged, write

NEEDS_VECTORS = pytest.mark.skipif(importlib.util.find_spec("wordllama") is None, reason="needs the extra `embeddings`")
TEXTS = (
    ("Which river flows through Vienna?", "The Danube"),
    ("Name a river in Egypt", "the Nile, of course"),
    ("What is 6 times 7?", "42"),
    ("Comment s'appelle la capitale de la Suède ?", "Stockholm, une ville très belle"),
)


def add(lake: Path, first: int, *texts: tuple[str, str], topic: str = "quiz") -> None:
    """Commit records."""
    writer = lake_writer(lake)
    for offset, (question, answer) in enumerate(texts, first):
        payload = json.dumps({"prompt": question})
        writer.add([record(0, offset, payload=payload, answer=answer, topic=topic), round_row(0, offset)])
        writer.flush()
    writer.close()


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Write a lake with some questions and answers, one a commit."""
    add(tmp_path / "lake", 0, *TEXTS)
    return tmp_path / "lake"


def find(lake: Path, text: str, **options: object) -> list[str]:
    """The answers that are found."""
    with one_lake.connect(lake) as connection, SearchIndex(lake) as index:
        index.update(connection)
        return [hit.answer for hit in index.find(text, 10, **options)]  # type: ignore[arg-type]


def test_all_words_have_to_be_there(lake: Path) -> None:
    """In the question or in the answer, whatever their case and their accents."""
    assert sorted(find(lake, "river")) == ["The Danube", "the Nile, of course"]
    assert find(lake, "river EGYPT") == ["the Nile, of course"]
    assert find(lake, "danube vienna") == ["The Danube"]
    assert find(lake, "suede tres") == ["Stockholm, une ville très belle"]
    assert find(lake, "river Suède") == []


def test_phrases_and_beginnings(lake: Path) -> None:
    """As people write them."""
    assert find(lake, '"river flows"') == ["The Danube"]
    assert find(lake, '"flows river"') == []
    assert find(lake, "dan*") == ["The Danube"]


@pytest.mark.parametrize("text", ["river OR (", 'river "', "NEAR(river)", "river:*", "-river", "a AND NOT", "*a"])
def test_nothing_that_is_written_is_taken_for_an_operator(lake: Path, text: str) -> None:
    """It is looked for, or it has no words."""
    find(lake, text)


@pytest.mark.parametrize("text", ["", "  ", '""', "***", "?!"])
def test_a_search_for_nothing_is_refused(lake: Path, text: str) -> None:
    """With what was asked."""
    with pytest.raises(RefusedError, match="nothing to search for"):
        find(lake, text)


def test_the_index_keeps_up_and_takes_nothing_twice(lake: Path) -> None:
    """Only what is new is read."""
    with one_lake.connect(lake) as connection, SearchIndex(lake) as index:
        assert index.update(connection) == 4
        assert index.update(connection) == 0
        add(lake, 4, ("Which river is the longest?", "The Nile"))
        assert index.update(connection) == 0, "the connection stays where it is"
        one_lake.refresh(connection)
        assert index.update(connection) == 1
        assert [hit.answer for hit in index.find("longest", 10)] == ["The Nile"]
        assert len(index.find("nile", 10)) == 2
        assert len(index.find("nile", 1)) == 1


def test_by_topic_and_as_of_a_moment(lake: Path) -> None:
    """Of what there was then."""
    add(lake, 4, ("Another river?", "The Rhine"), topic="rivers")
    assert find(lake, "river", topic="rivers") == ["The Rhine"]
    assert find(lake, "river", when=When(bounds=moment(lake, "1").bounds)) == ["The Danube"]


def test_several_processes_bring_it_up_to_date_at_once(lake: Path) -> None:
    """Each record is there once."""
    add(lake, 4, *[(f"Question {number}", "so") for number in range(20)])
    command = [sys.executable, "-m", "flows.cli", "search", "--lake", str(lake), "so", "--limit", "100", "--json"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    assert [len(json.loads(process.communicate(timeout=60)[0])) for process in started] == [20] * 4


def test_one_that_is_behind_sets_nothing_back(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opened the lake before, and waited while another one took up more."""
    real, others = SearchIndex._take, [lake]

    def overtaken(self: SearchIndex, cluster: str, lane: int, rows: Sequence[tuple[Any, ...]]) -> int:
        if others:
            add(others.pop(), 4, ("And a lake?", "The Wannsee"))
            assert find(lake, "lake") == ["The Wannsee"]
        return real(self, cluster, lane, rows)

    with one_lake.connect(lake) as connection, SearchIndex(lake) as index:
        monkeypatch.setattr(SearchIndex, "_take", overtaken)
        assert index.update(connection) == 0
    assert find(lake, "lake") == ["The Wannsee"]


def test_an_index_that_is_none_is_refused(lake: Path) -> None:
    """It says what to do."""
    path = tables.search_index(lake)
    path.parent.mkdir()
    path.write_text("nonsense" * 1000)
    with pytest.raises(RefusedError, match="delete it, it is made anew"):
        SearchIndex(lake)
    path.unlink()
    SearchIndex(lake).__exit__()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(RefusedError, match="of another version"):
        SearchIndex(lake)


def test_an_index_that_is_made_anew_takes_no_vectors_of_the_old_one(lake: Path) -> None:
    """They are by the ids of the records, which are others now."""
    path = tables.search_index(lake)
    vectors = path.with_suffix(".vectors")
    assert find(lake, "danube")
    vectors.write_bytes(b"old")
    assert find(lake, "danube")
    assert vectors.exists()
    path.unlink()
    assert find(lake, "danube")
    assert not vectors.exists()


@NEEDS_VECTORS
def test_what_means_something_near_is_found(lake: Path) -> None:
    """Without a word in common; and what came later too."""
    with one_lake.connect(lake) as connection, SearchIndex(lake) as index:
        index.update(connection)
        first, second, *_ = index.similar("streams and waters of a country", 3)
        assert {first.answer, second.answer} == {"The Danube", "the Nile, of course"}
        assert first.score >= second.score > 0
        with tables.search_index(lake).with_suffix(".vectors").open("ab") as file:
            file.write(b"torn")
        add(lake, 4, ("A multiplication", "3 * 4 = 12"), topic="sums")
        one_lake.refresh(connection)
        index.update(connection)
        assert [hit.answer for hit in index.similar("arithmetic", 1, topic="sums")] == ["3 * 4 = 12"]
        assert index.similar("multiplication", 9, when=When(bounds=moment(lake, "3").bounds))[0].answer == "42"


def test_the_command_shows_what_it_found(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On one line each, for a terminal or as JSON."""
    add(lake, 4, ("A trap?", "see\n\x1b[2Jthis"))
    assert cli.main(["search", "--lake", str(lake), "vienna"]) == 0
    shown = capsys.readouterr().out
    assert "quiz task-0-0  (" in shown
    assert "  Which river flows through Vienna?\n  -> The Danube\n" in shown
    assert cli.main(["search", "--lake", str(lake), "trap"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert cli.main(["search", "--lake", str(lake), "nowhere", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert cli.main(["search", "--lake", str(lake), "river", "--as-of", "1", "--index", str(lake / "mine")]) == 0
    assert "Danube" in capsys.readouterr().out


def test_a_record_that_gave_way_in_a_merge_is_not_found(tmp_path: Path) -> None:
    """But as of a time before."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x", answer="mine"))
    with one_lake.connect(one) as lake, SearchIndex(one) as index:
        index.update(lake)
    merge(one, write(tmp_path / "other", "b", converged("b", 0, "x", answer="theirs", score=0.9)), MERGING)
    with one_lake.connect(one) as lake, SearchIndex(one) as index:
        index.update(lake)
        gone = lake.execute("SELECT cluster, lane, decision_offset FROM stored.superseded").fetchall()
        assert [hit.answer for hit in index.find("theirs", 10, when=When(superseded=gone))] == ["theirs"]
        assert index.find("mine", 10, when=When(superseded=gone)) == []
        then = When(bounds=moment(one, "1").bounds)
        assert [hit.answer for hit in index.find("mine", 10, when=then)] == ["mine"]
        assert index.find("theirs", 10, when=then) == []


def test_a_record_that_is_about_to_give_way_is_indexed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge that was killed between its commits has left it in both tables."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x", answer="mine"))
    other = write(tmp_path / "other", "b", converged("b", 0, "x", answer="theirs", score=0.9))
    real = SealedTable.try_commit

    def dying(self: SealedTable, commit: Any, on_failure: Any) -> Any:
        if self.name == "records":
            raise KeyboardInterrupt
        return real(self, commit, on_failure)

    with monkeypatch.context() as patch:
        patch.setattr(SealedTable, "try_commit", dying)
        with pytest.raises(KeyboardInterrupt):
            merge(one, other, MERGING)
    with one_lake.connect(one) as connection, SearchIndex(one) as index:
        assert index.update(connection) == 1


def test_an_update_that_is_broken_off_leaves_nothing(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one takes all of it."""
    with one_lake.connect(lake) as connection, SearchIndex(lake) as index:
        with monkeypatch.context() as patch:
            patch.setattr("one_lake.search._question", lambda _payload: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                index.update(connection)
        assert index.find("river", 10) == []
        index.update(connection)
        assert len(index.find("river", 10)) == 2


@NEEDS_VECTORS
def test_an_empty_lake_has_nothing_near(tmp_path: Path) -> None:
    """And that is no error."""
    lake_writer(tmp_path).close()
    with one_lake.connect(tmp_path) as connection, SearchIndex(tmp_path) as index:
        index.update(connection)
        assert index.similar("river", 10) == []


def test_that_nothing_was_found_is_said(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is no error."""
    assert cli.main(["search", "zeppelin", "--home", str(lake.parent)]) == 0
    assert capsys.readouterr().err == "nothing found\n"
