"""`aureon demo`: to its end, in pieces, and over again."""

import importlib.util
import json
import re
import shlex
import signal
from pathlib import Path

import msgspec
import pytest

from flows.commands.arguments import make_parser
from flows.commands.demo import DemoState, demo_settings, load_state, main
from flows.commands.demo_report import AgreementFigures, FamilyFigures, Result, print_report, queries
from flows.commands.examiner import Examiner, Marking
from schemas.errors import OutcomeUnknownError, RefusedError
from tests.aureon_command import aureon, running, said, until

FEW = "28"


@pytest.mark.timeout(240)
def test_the_demo_ends_goes_on_and_starts_over(tmp_path: Path) -> None:
    """Stopped in the middle, finished, shown again, with more tasks, and from the beginning."""
    with running("demo", "--tasks", "1200", cwd=tmp_path) as demo:
        until(lambda: re.search(r"[1-9][\d,]* of [\d,]+ ended", said(tmp_path)), 60, demo)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 130
    assert re.search(r"stopped with [\d,]+ of [\d,]+ tasks and branches ended; `.* demo` goes on", said(tmp_path))

    done = aureon("demo", cwd=tmp_path, timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert "1,200 tasks and" in done.stdout
    assert "right by reasoning-gym's own verifiers" in done.stdout
    state = msgspec.json.decode((tmp_path / ".aureon/demo/demo.json").read_bytes(), type=DemoState)
    assert state.result is not None
    assert state.result.converged + state.result.dead == 1200
    assert state.result.branches == state.result.branches_converged
    assert sum(f.tasks for f in state.result.families) == 1200
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

    few = aureon("demo", "--fresh", "--tasks", FEW, "--seed", "7", cwd=tmp_path, timeout_s=120)
    assert few.returncode == 0, few.stderr
    assert f"{FEW} tasks and" in few.stdout


def test_more_tasks_may_be_asked_for_and_nothing_else(tmp_path: Path) -> None:
    """Their ids begin with those there are."""
    (tmp_path / "demo.json").write_bytes(msgspec.json.encode(DemoState(tasks=100, seed=3)))
    assert (load_state(tmp_path, None, None).tasks, load_state(tmp_path, None, None).seed) == (100, 3)
    assert load_state(tmp_path, 200, 3).tasks == 200
    with pytest.raises(RefusedError, match="has the seed 3, not 4: start over with --fresh"):
        load_state(tmp_path, None, 4)
    with pytest.raises(RefusedError, match="has 100 tasks already, not 50: start over with --fresh"):
        load_state(tmp_path, 50, None)


@pytest.mark.timeout(240)
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


def test_a_demo_keeps_to_the_nodes_it_was_begun_with(tmp_path: Path) -> None:
    """The language model is not added half-way, and once there it stays."""
    assert load_state(tmp_path, None, None, llm=True).tasks == 210
    (tmp_path / "demo.json").write_bytes(msgspec.json.encode(DemoState(tasks=100, seed=3)))
    with pytest.raises(RefusedError, match="was begun without --llm: start over with --fresh --llm"):
        load_state(tmp_path, None, None, llm=True)
    (tmp_path / "demo.json").write_bytes(msgspec.json.encode(DemoState(tasks=100, seed=3, llm=True)))
    assert load_state(tmp_path, None, None).llm


def test_the_language_model_brings_settings_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those for how much is under way can be changed, the nodes cannot."""
    parse = make_parser().parse_args
    assert demo_settings(parse(["demo", "--llm"]), llm=True).in_flight == 1
    monkeypatch.setenv("AUREON_IN_FLIGHT", "9")
    monkeypatch.setenv("AUREON_NODES", "mine:nodes")
    settings = demo_settings(parse(["demo", "--llm"]), llm=True)
    assert (settings.nodes, settings.in_flight) == ("connectors.nodes.llm:nodes_with_llm", 9)
    with pytest.raises(RefusedError, match="--llm names the nodes of the demo: leave out --nodes"):
        demo_settings(parse(["demo", "--llm", "--nodes", "mine:nodes"]), llm=True)


def test_without_the_extra_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the same home will do once it is installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    home = tmp_path / "home"
    with pytest.raises(RefusedError, match=r"pip install 'aureon\[llm\]'"):
        main(make_parser().parse_args(["demo", "--llm", "--home", str(home)]))
    assert not home.exists()


def test_fresh_deletes_nothing_that_is_no_demo(tmp_path: Path) -> None:
    """Least of all somebody's lake."""
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "mine").write_text("dear")
    done = aureon("demo", "--fresh", "--home", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "is no demo's home: it has no demo.json, so nothing was deleted" in done.stderr
    assert (tmp_path / "lake" / "mine").read_text() == "dear"
    assert aureon("demo", "--home", tmp_path, cwd=tmp_path).returncode == 2


def test_fresh_leaves_what_the_demo_has_not_made(tmp_path: Path) -> None:
    """A file that somebody put beside it, for example."""
    home = tmp_path / "home"
    (home / "lake").mkdir(parents=True)
    (home / "demo.json").write_bytes(msgspec.json.encode(DemoState(tasks=1, seed=3)))
    (home / "notes.txt").write_text("mine")
    options = make_parser().parse_args(["demo", "--fresh", "--home", str(home)])
    from flows.commands.demo import delete_demo  # noqa: PLC0415 - its name says what it does; nobody else is to have it

    delete_demo(demo_settings(options))
    assert [path.name for path in home.iterdir()] == ["notes.txt"]


def test_fresh_leaves_the_topics_of_a_kafka_alone(tmp_path: Path) -> None:
    """They may be anybody's."""
    done = aureon("demo", "--fresh", "--brokers", "127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 2
    assert "--fresh starts over on the embedded broker only" in done.stderr


def test_a_demo_keeps_to_its_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the variables say that are meant for real work; those of the refinement hold."""
    for name, value in {"BROKERS": "kafka:9092", "LAKE": "/lake", "HOME": "/srv", "MAX_ROUNDS": "5"}.items():
        monkeypatch.setenv(f"AUREON_{name}", value)
    settings = demo_settings(make_parser().parse_args(["demo"]))
    assert (settings.brokers, settings.home, settings.max_rounds) == ("", "/srv/demo", 5)
    assert settings.lake_dir == Path("/srv/demo/lake")
    settings = demo_settings(make_parser().parse_args(["demo", "--home", "x", "--brokers", "b:1"]))
    assert (settings.brokers, settings.home) == ("b:1", "x")


def test_the_examiner_poses_and_marks() -> None:
    """A right answer, a wrong one, and one that makes no sense."""
    with Examiner(14, 0) as examiner:
        tasks = [msgspec.json.decode(task) for task in examiner.tasks()]
        assert len({task["metadata"]["family"] for task in tasks}) == 14
        equation = next(t for t in tasks if t["metadata"]["family"] == "simple_equations")
        a, b = re.findall(r"\d+", equation["payload"]["prompt"])[:2]
        answers = [str(int(b) // int(a)), "-1", "no idea"]
        assert [s >= 0.99 for s in examiner.scores([Marking(equation["metadata"], a) for a in answers])] == [
            True,
            False,
            False,
        ]


def test_an_examiner_that_dies_is_noticed() -> None:
    """Nothing waits for it for ever."""
    with Examiner(14, 0) as examiner:
        examiner.close()
        with pytest.raises(OutcomeUnknownError, match="ended before its work was done"):
            list(examiner.tasks())


RESULT = Result(
    tasks=3,
    converged=2,
    forced=1,
    dead=1,
    right=1,
    branches=0,
    branches_converged=0,
    decisions=4,
    calls=12,
    ran_s=0.0,
    by_rounds={1: 1, 3: 1},
    families=(
        FamilyFigures(
            family="f",
            topic="math",
            tasks=3,
            unforced=1,
            unforced_right=1,
            forced=1,
            forced_right=0,
            dead=1,
            more_rounds=1,
        ),
    ),
    agreement=(AgreementFigures(agreeing=2, candidates=3, tasks=2, right=1),),
    dead_letters={"no_answer": 1},
    example_parent="it's",
)


def test_the_report_says_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a demo without branches that took no time."""
    print_report(RESULT, Path("a lake"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "Of the tasks 2 converged (1 forced), 1 are dead letters; 1 of the converged (50.0 %) are right" in shown
    assert "Rounds to convergence: 1 after 1, 1 after 3." in shown
    assert "f math 3 33.3 % 100.0 % 1 0.0 % 1 33.3 %" in shown
    assert "2 of 3 2 50.0 %" in shown
    assert "no_answer 1" in shown
    assert "--lake 'a lake'" in shown


def test_an_id_with_a_quote_does_not_spoil_the_query() -> None:
    """It is the users' to choose."""
    assert "lineage('it''s')" in queries(RESULT)[2]
