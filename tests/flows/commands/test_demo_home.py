"""The home of `aureon demo`: what it remembers, and what may be deleted."""

from pathlib import Path

import msgspec
import pytest

from connectors.embedded import EmbeddedBroker
from flows.commands.arguments import make_parser
from flows.commands.demo_home import DemoState, delete_demo, demo_settings, load_state
from schemas.errors import RefusedError
from tests.aureon_command import aureon, running, said, until


def test_more_tasks_may_be_asked_for_and_nothing_else(tmp_path: Path) -> None:
    """Their ids begin with those there are."""
    (tmp_path / "demo.json").write_bytes(msgspec.json.encode(DemoState(tasks=100, seed=3)))
    assert (load_state(tmp_path, None, None).tasks, load_state(tmp_path, None, None).seed) == (100, 3)
    assert load_state(tmp_path, 200, 3).tasks == 200
    with pytest.raises(RefusedError, match="has the seed 3, not 4: start over with --fresh"):
        load_state(tmp_path, None, 4)
    with pytest.raises(RefusedError, match="has 100 tasks already, not 50: start over with --fresh"):
        load_state(tmp_path, 50, None)


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
    delete_demo(demo_settings(options))
    assert [path.name for path in home.iterdir()] == ["notes.txt"]


def test_a_demo_keeps_to_its_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the variables say that are meant for real work; those of the refinement hold."""
    for name, value in {"BROKERS": "kafka:9092", "LAKE": "/lake", "HOME": "/srv", "MAX_ROUNDS": "5"}.items():
        monkeypatch.setenv(f"AUREON_{name}", value)
    settings = demo_settings(make_parser().parse_args(["demo"]))
    assert (settings.brokers, settings.home, settings.max_rounds) == ("", "/srv/demo", 5)
    assert settings.lake_dir == Path("/srv/demo/lake")
    settings = demo_settings(make_parser().parse_args(["demo", "--home", "x", "--brokers", "b:1"]))
    assert (settings.brokers, settings.home) == ("b:1", "x")


def test_fresh_has_nothing_to_delete_where_there_is_nothing(tmp_path: Path) -> None:
    """No folder, or an empty one."""
    options = make_parser().parse_args(["demo", "--fresh", "--home", str(tmp_path / "home")])
    delete_demo(demo_settings(options))
    (tmp_path / "home").mkdir()
    delete_demo(demo_settings(options))
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_note_that_cannot_be_read_is_told_with_the_cure(tmp_path: Path) -> None:
    """Nothing is taken for what it may have been."""
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(RefusedError, match=r"demo\.json: .*; `aureon demo --fresh` starts over"):
        load_state(tmp_path, None, None)


def test_fresh_stops_a_broker_that_nobody_has_any_more_and_no_other(tmp_path: Path) -> None:
    """One whose owner died is adopted, and stopped; that of a process which lives is left alone."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "demo.json").write_bytes(msgspec.json.encode(DemoState(tasks=1, seed=3)))
    settings = demo_settings(make_parser().parse_args(["demo", "--fresh", "--home", str(home)]))
    with running("broker", "--home", home, cwd=tmp_path) as owner:
        until(lambda: "Kafka at 127.0.0.1:" in said(tmp_path), process=owner)
        with pytest.raises(RefusedError, match="is in use by another process: stop that first"):
            delete_demo(settings)
        assert (home / "demo.json").exists()
        owner.kill()
        owner.wait()
        delete_demo(settings)
    assert not EmbeddedBroker(settings.broker_dir).is_running()
    assert not (home / "demo.json").exists()
