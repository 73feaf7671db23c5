"""`aureon demo`: to its end, in pieces, and over again."""

import importlib.util
import json
import re
import shlex
import signal
from pathlib import Path

import msgspec
import pytest

from connectors.embedded import EmbeddedBroker
from flows.batch import Batch
from flows.cell import Cell
from flows.commands import demo_compare
from flows.commands.arguments import make_parser
from flows.commands.demo import _tasks, _unfinished, main
from flows.commands.demo_compare import WAYS
from flows.commands.demo_home import DemoState
from flows.commands.examiner import Examiner
from flows.settings import Settings
from schemas.errors import RefusedError, TryAgainError
from tests.aureon_command import aureon, running, said, until
from tests.flows.commands.test_demo_report import RESULT

FEW = "28"


def test_the_demo_ends_goes_on_and_starts_over(tmp_path: Path) -> None:
    """Stopped in the middle, finished, shown again, with more tasks, and from the beginning."""
    with running("demo", "--tasks", "600", cwd=tmp_path) as demo:
        until(lambda: re.search(r"[1-9][\d,]* of [\d,]+ ended", said(tmp_path)), 120, demo)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 130
    assert re.search(r"stopped with [\d,]+ of [\d,]+ tasks and branches ended; `.* demo` goes on", said(tmp_path))

    done = aureon("demo", cwd=tmp_path, timeout_s=200)
    assert done.returncode == 0, done.stderr
    assert "600 tasks and" in done.stdout
    assert "right by reasoning-gym's own verifiers" in done.stdout
    state = msgspec.json.decode((tmp_path / ".aureon/demo/demo.json").read_bytes(), type=DemoState)
    assert state.result is not None
    assert state.result.converged + state.result.dead == 600
    assert state.result.branches == state.result.branches_converged
    assert sum(f.tasks for f in state.result.families) == 600
    assert sum(state.result.by_rounds.values()) == state.result.converged

    commands = [line.strip() for line in done.stdout.splitlines() if " sql --lake " in line]
    assert len(commands) == 3
    for command in commands:
        arguments = shlex.split(command[command.index("sql --lake") :])
        shown = aureon(*arguments, "--json", cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)

    again = aureon("demo", cwd=tmp_path)
    assert again.returncode == 0
    assert "this demo is finished" in again.stderr
    assert again.stdout == done.stdout

    few = aureon("demo", "--fresh", "--tasks", FEW, "--seed", "7", cwd=tmp_path, timeout_s=200)
    assert few.returncode == 0, few.stderr
    assert f"{FEW} tasks and" in few.stdout


def test_the_demo_asks_the_language_model_too(tmp_path: Path) -> None:
    """It is outvoted, and the summary tells where; without the flag it goes on with the model."""
    done = aureon("demo", "--llm", "--tasks", "14", cwd=tmp_path, timeout_s=200)
    assert done.returncode == 0, done.stderr
    state = msgspec.json.decode((tmp_path / ".aureon/demo/demo.json").read_bytes(), type=DemoState)
    assert state.llm
    assert state.result is not None
    assert state.result.right == 14
    assert {f.topic for f in state.result.llm} == {"math", "coding", "logic", "probability"}
    asked = sum(f.asked for f in state.result.llm)
    assert 0 < asked <= state.result.decisions
    assert sum(f.right for f in state.result.llm) < asked
    last = [f for f in state.result.llm if f.part == 4]
    assert min(f.affinity for f in last) < 0.5
    assert "The language model, a quarter of the run at a time" in done.stdout
    assert "llama" not in done.stderr

    again = aureon("demo", cwd=tmp_path)
    assert again.stdout == done.stdout


def test_without_the_extra_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the same home will do once it is installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    home = tmp_path / "home"
    with pytest.raises(RefusedError, match=r"pip install 'aureon\[llm\]'"):
        main(make_parser().parse_args(["demo", "--llm", "--home", str(home)]))
    assert not home.exists()


def test_fresh_leaves_the_topics_of_a_kafka_alone(tmp_path: Path) -> None:
    """They may be anybody's."""
    done = aureon("demo", "--fresh", "--brokers", "127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 2
    assert "--fresh starts over on the embedded broker only" in done.stderr


def test_tasks_that_were_posed_once_are_not_posed_again(tmp_path: Path) -> None:
    """As many of them as are asked for."""
    (tmp_path / "tasks.jsonl").write_bytes(b"1\n2\n3\n")
    with Examiner(2, 0) as examiner:
        assert list(_tasks(examiner, tmp_path / "tasks.jsonl", 2)) == [b"1\n", b"2\n"]


def test_a_demo_that_did_not_end_says_why_and_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error of the sending is that of the command."""
    batch = Batch(Cell(Settings()), [], 0)
    assert _unfinished(batch, tmp_path, asked=False) == 1
    assert "the broker lost the others; `" in capsys.readouterr().err
    batch.error = TryAgainError("not now")
    with pytest.raises(TryAgainError, match="not now"):
        _unfinished(batch, tmp_path, asked=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_comparison_ends_in_order(number: signal.Signals, tmp_path: Path) -> None:
    """With the broker of the way that is under way."""
    with running("demo", "--compare", "--tasks", FEW, cwd=tmp_path) as process:
        broker = EmbeddedBroker(tmp_path / ".aureon/demo/compare/threshold-all/broker")
        until(broker.is_running, 120, process)
        process.send_signal(number)
        assert process.wait(120) == 130, said(tmp_path)
    assert not broker.is_running()
    assert "Traceback" not in said(tmp_path)


def test_ways_are_compared_on_a_broker_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And shown beside each other, by how many calls each has saved."""
    done = aureon("demo", "--compare", "--brokers", "127.0.0.1:1", cwd=tmp_path)
    assert (done.returncode, "leave out --brokers" in done.stderr) == (2, True)
    dear = msgspec.structs.replace(RESULT, calls=100)
    demo_compare._print([(WAYS[0], dear), (WAYS[2], msgspec.structs.replace(RESULT, calls=60))])
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown[1] == ["threshold", "all", "3", "33.33%", "1", "4", "100", "0%"]
    assert shown[2] == ["value", "cascade,", "1", "first", "3", "33.33%", "1", "4", "60", "40%"]
    assert WAYS[1].variables == {
        "AUREON_POLICY": "threshold",
        "AUREON_ROUTING": "cascade",
        "AUREON_CASCADE_FIRST": "1",
    }
