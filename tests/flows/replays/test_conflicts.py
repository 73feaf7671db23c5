"""Another question under the id of a task: its dead letter says nothing of the task, whatever is asked of its past."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

import one_lake
from flows import cli, replay
from flows.batch import _HOW_FAR, add_asked
from flows.settings import read_settings
from one_lake.runs import Asked, Selection, past_rounds, read_run, start_run
from schemas.errors import AureonError
from schemas.node import Answer
from schemas.task import encode
from tests.one_lake.lake_data import dead_letter, lake_writer, record, round_row

MINE = '{"prompt": "6*7", "answer_kind": "number"}'
ANOTHER = '{"prompt": "what else?", "answer_kind": "number"}'


def said(*texts: str) -> dict[str, Any]:
    """The candidates of a round that a policy has judged."""
    answers = [Answer(node="n", model=m, text=text) for m, text in zip("abc", texts, strict=True)]
    return {"candidates": encode(answers).decode(), "policy": "threshold(0.9)"}


def conflict(offset: int, name: str) -> list[Any]:
    """The dead letter of the other question."""
    row = round_row(0, offset, logical_id=name, kind="dead", reason="id_conflict", introduces=False, policy="")
    letter = dead_letter(0, offset, logical_id=name, reason="id_conflict", payload=ANOTHER)
    return [letter, row]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a task of two rounds, one that is a record before the other question comes, and one that died."""
    rows: list[Any] = [
        round_row(0, 0, logical_id="two", kind="next_round", **said("42", "41", "40")),
        *conflict(1, "two"),
        round_row(0, 2, logical_id="two", round_index=1, introduces=False, **said("42", "42", "42")),
        record(0, 2, logical_id="two", round_index=1, payload=MINE),
        round_row(0, 3, logical_id="one", **said("42", "42", "42")),
        record(0, 3, logical_id="one", payload=MINE),
        *conflict(4, "one"),
        *conflict(5, "dead"),
        round_row(0, 6, logical_id="dead", kind="dead", reason="rejected", **said("42", "42", "42")),
        dead_letter(0, 6, logical_id="dead", reason="rejected", payload=MINE),
    ]
    writer = lake_writer(tmp_path / "lake")
    writer.add(rows)
    writer.flush()
    writer.close()
    return tmp_path


def test_it_ends_no_replay_of_the_task(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each round is decided again, and what was is what the task came to."""
    command = ["replay", "re-decide", "--run", "again", "--home", str(home), "--policy", "threshold(0.8)"]
    assert cli.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["was"]["records"], told["was"]["dead"]) == (2, 1)
    assert "converged -> dead" not in told["changes"]
    with one_lake.connect(home / "lake") as lake:
        rows = lake.sql(
            "SELECT logical_id, round_index, kind, outcome FROM run('again') WHERE reason <> 'id_conflict' ORDER BY ALL"
        ).fetchall()
    assert [(name, at, outcome == "not_reached") for name, at, _, outcome in rows] == [
        ("dead", 0, False),
        ("one", 0, False),
        ("two", 0, False),
        ("two", 1, False),
    ], rows


def test_it_is_not_what_a_task_is_asked_again_with(home: Path) -> None:
    """Nor redriven with."""
    run = start_run(home / "lake", "mine", "re-decide", Selection(), {}, "test", 0.0)
    ((_, rows),) = past_rounds(home / "lake", "mine", run, Asked(("r.logical_id", "r.reason")))
    assert rows.num_rows == 7
    assert set(rows["payload"].to_pylist()) == {MINE}


def test_a_redrive_is_of_dead_letters_however_it_is_begun(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a command, or as a flow of Bytewax, which can go on with it."""
    monkeypatch.setenv("AUREON_HOME", str(home))
    for begin in (lambda: replay.flow("sent", "redrive"), lambda: replay.replay(read_settings(), "sent2", "redrive")):
        with contextlib.suppress(AureonError):  # there is no Kafka, and no key
            begin()
    runs = [read_run(home / "lake", name) for name in ("sent", "sent2")]
    assert [run.selection for run in runs if run is not None] == [Selection(dead=True)] * 2


def test_a_batch_waits_for_the_task(home: Path) -> None:
    """What the other question came to is no end of it."""
    writer = lake_writer(home / "lake")
    writer.add([round_row(0, 7, logical_id="open", kind="next_round"), *conflict(8, "open")])
    writer.flush()
    writer.close()
    with one_lake.connect(home / "lake") as lake:
        add_asked(lake, [("math", name) for name in ("two", "one", "dead", "open")])
        ((ended, ours, _, converged, _, dead),) = lake.execute(_HOW_FAR).fetchall()
    assert (ended, ours, converged, dead) == (3, 4, 2, 1)
