"""Questions asked again, of a past that has all kinds of them."""

import json
from pathlib import Path
from typing import Any

import pytest

import one_lake
from connectors.blobs import BlobStore
from connectors.nodes import Node
from flows import cli
from flows.commands.arguments import make_parser, settings_of
from flows.replay import REDRIVE, begin
from flows.replays.redecide import Options, Redecider, _Texts
from flows.rules import Rules
from flows.settings import Settings
from one_lake.runs import Selection
from schemas.blob import REFERENCE_START
from schemas.errors import BadRecordError, RefusedError
from schemas.task import encode
from tests.flows.call_parts import ScriptedNode, answers, fails
from tests.one_lake.lake_data import lake_writer, record, round_row

PAYLOAD = '{"prompt": "6*7", "answer_kind": "number"}'


def nodes() -> list[Node]:
    """One that answers, and one that fails at first."""
    flaky = ScriptedNode(fails, answers, name="flaky", topics=("flaky",), timeout_s=5)
    return [ScriptedNode(answers, name="good", topics=("math",), timeout_s=5), flaky]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a lake of tasks: some are there twice, in a blob, not ended, on a topic of nobody, or no payload."""
    store = BlobStore(str(tmp_path / "blobs"))
    store.create()
    away = encode(store.put(PAYLOAD.encode())).decode()
    rows: list[Any] = []
    kinds = [("math", PAYLOAD), ("math", away), ("flaky", PAYLOAD), ("nobody's", PAYLOAD), ("math", '{"question": 1}')]
    for offset, (topic, payload) in enumerate(kinds):
        named: dict[str, Any] = {"topic": topic, "logical_id": f"t{offset}"}
        rows += [record(0, offset, payload=payload, answer="41", **named), round_row(0, offset, answer="41", **named)]
    rows += [round_row(0, 5, logical_id="t0"), round_row(0, 6, logical_id="open", kind="next_round")]
    writer = lake_writer(tmp_path / "lake")
    writer.add(rows)
    writer.flush()
    writer.close()
    return tmp_path


def test_each_task_is_asked_as_far_as_it_can_be(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once; after a failure again, a while later; and it is said of which one there is no question."""
    command = ["replay", "re-ask", "--run", "all", "--home", str(home), "--nodes", f"{__name__}:nodes"]
    command += ["--call-tries", "1", "--retry-delay-s", "0.05", "--max-attempts", "2", "--max-rounds", "1"]
    (home / "truth.jsonl").write_text(
        "".join(json.dumps({"logical_id": f"t{n}", "truth": "42"}) + "\n" for n in range(5))
    )
    assert cli.main([*command, "--truth", str(home / "truth.jsonl")]) == 0
    shown = capsys.readouterr().out
    assert "could not be decided again: " in shown
    assert "right 3 of 3 (100.0%), 0 wrong and not forced" in shown
    with one_lake.connect(home / "lake") as lake:
        asked = lake.sql("SELECT logical_id, attempt, kind, outcome FROM run('all') ORDER BY ALL").fetchall()
        notes = dict(lake.sql("SELECT logical_id, note FROM run('all') WHERE outcome = 'impossible'").fetchall())
    assert asked == [
        ("open", 0, "", "impossible"),
        ("t0", 0, "converged", "asked"),
        ("t1", 0, "converged", "asked"),
        ("t2", 0, "retry", "asked"),
        ("t2", 1, "converged", "asked"),
        ("t3", 0, "dead", "asked"),
        ("t4", 0, "", "impossible"),
    ]
    assert notes["open"] == "the lake has no payload of this task: it has not ended"
    assert "`prompt`" in notes["t4"]
    assert cli.main(["replay", "list", "--home", str(home), "--json"]) == 0
    assert [(run["name"], run["tasks"], run["done"]) for run in json.loads(capsys.readouterr().out)] == [("all", 6, 1)]


def test_a_run_that_has_not_begun_is_told_as_such(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As one that is not complete; and a mode that there is not is refused."""
    settings = settings_of(make_parser().parse_args(["replay", "list", "--home", str(home)]))
    assert cli.main(["replay", "list", "--home", str(home)]) == 0
    assert capsys.readouterr().err == "no runs\n"
    for name, mode in (("sent", REDRIVE), ("decided", "re-decide")):
        begin(settings, name, mode, Selection(), Options())
        assert cli.main(["replay", "report", "--run", name, "--home", str(home)]) == 1
    shown = capsys.readouterr().out
    assert "run sent: 0 dead letters redriven" in shown
    assert "run decided: 6 tasks; rounds: none\nnot complete: the same command goes on with it" in shown
    with pytest.raises(RefusedError, match="'forget' is no mode of a run; there are re-decide, re-ask, redrive"):
        begin(settings, "other", "forget", Selection(), Options())


def test_what_only_looks_like_a_reference_is_a_text_and_no_parameters_are_none(home: Path) -> None:
    """Whatever the lake says that they are."""
    store = BlobStore(str(home / "blobs"))
    assert _Texts(store).whole(f"{REFERENCE_START} nothing") == f"{REFERENCE_START} nothing"
    name = store.put(b"[]").name
    with pytest.raises(BadRecordError, match=f"blob {name}: no parameters of votes"):
        Redecider(Rules(Settings()), Options(), store)._read_votes(name)
