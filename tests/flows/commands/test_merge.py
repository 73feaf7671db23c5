"""`aureon merge`: rows, blobs and keys of another lake."""

import json
from pathlib import Path

import pytest

import one_lake
from connectors.blobs import BlobStore
from flows import cli
from one_lake.verify import verify
from schemas.task import encode
from tests.one_lake.lakes_apart import converged, write


def test_a_lake_with_its_blobs_is_taken_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What its rows refer to is there before they are."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    write(ours / "lake", "a", converged("a", 0, "x", answer="1"))
    store = BlobStore(str(theirs / "blobs"))
    store.create()
    answer = encode(store.put(b"long " * 100)).decode()
    other = write(theirs / "lake", "b", converged("b", 0, "x", answer=answer, score=0.9), converged("b", 1, "y"))
    assert cli.main(["merge", str(other), "--home", str(ours)]) == 0
    shown = capsys.readouterr().out
    assert "taken: 2 records, 2 branches, 2 rounds; 1 blobs\n1 records gave way to others of the same id" in shown
    with one_lake.connect(ours / "lake", str(ours / "blobs")) as lake:
        assert lake.sql("SELECT logical_id, left(answer, 5) FROM one ORDER BY 1").fetchall() == [
            ("x", "long "),
            ("y", "2"),
        ]
    assert verify(ours / "lake", blobs=str(ours / "blobs")).blobs == 1
    assert cli.main(["merge", str(other), "--home", str(ours), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["superseded"], told["blobs"]) == ({}, 0, 0)


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No lake, and a criterion that there is not."""
    write(tmp_path / "lake", "a", converged("a", 0, "x"))
    other = write(tmp_path / "other", "b", converged("b", 0, "y"))
    assert cli.main(["merge", str(tmp_path / "none"), "--home", str(tmp_path)]) == 2
    assert "no lake at" in capsys.readouterr().err
    assert cli.main(["merge", str(other), "--home", str(tmp_path), "--by", "age"]) == 2
    assert "'age' is no criterion; there are: supervision, evidence" in capsys.readouterr().err
    assert cli.main(["merge", str(other), "--home", str(tmp_path)]) == 0
    assert "no blob store at" in capsys.readouterr().err


def test_where_both_have_one_blob_store_nothing_is_taken_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the rows refer to is there."""
    write(tmp_path / "lake", "a", converged("a", 0, "x"))
    other = write(tmp_path / "other", "b", converged("b", 0, "y"))
    shared = str(tmp_path / "blobs")
    BlobStore(shared).create()
    assert cli.main(["merge", str(other), "--home", str(tmp_path), "--other-blobs", shared, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["blobs"] == 0
