"""`aureon top`: what it shows, on a terminal and elsewhere, and that it leaves the terminal as it was."""

import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from flows.commands.overview_cluster import CellView, Cluster, NodeView
from flows.commands.overview_lake import Lake, Notes, RoundView, TopicView
from flows.commands.top import Repeated, ago, fit, ranges, screen
from flows.figures import InputFigures, KafkaFigures
from schemas.node import NodeHealth
from schemas.supervision import Alert, Quarantine, Stage
from tests.aureon_command import AUREON, aureon, environment, running, until
from tests.brokers import Broker
from tests.one_lake.lake_data import decisions, lake_writer

AT = 1_700_000_000.0
TASKS = "".join(
    json.dumps({"topic": "math", "logical_id": f"t{n}", "payload": {"prompt": f"Solve for m: {n}*m = {n * n}"}}) + "\n"
    for n in range(1, 11)
)
ALTERNATE, BACK = "\x1b[?1049h", "\x1b[?1049l"
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"


def a_cell(name: str, **changes: Any) -> CellView:
    """A cell that is well."""
    view = CellView(
        cell=name, process="h:1", lanes=(0, 1), under_way=5, decided=1234, per_s=2.5, heard_s=1.0, silent=False
    )
    return msgspec.structs.replace(view, **changes)


def a_node(name: str, **changes: Any) -> NodeView:
    """A node that is well."""
    view = NodeView(
        node=name,
        cell="one",
        health=NodeHealth.HEALTHY,
        active=2,
        limit=8,
        waiting=3,
        errors=0.0,
        timeouts=0.0,
        latency_s=0.25,
        tokens_per_s=0.0,
        calls=9,
        not_asked=(),
        silent=False,
    )
    return msgspec.structs.replace(view, **changes)


KAFKA = KafkaFigures(2, {"tasks.global": InputFigures(100, 60, 40)}, 60, (30, 10))
CLUSTER = Cluster(at=AT, broker="here:9092", kafka=KAFKA, cells=[a_cell("one")], nodes=[a_node("solver")])
LAKE = Lake(
    at=AT,
    lake="lake",
    topics=[TopicView("math", 60, 12, 50, 4, 3, 0, 99, 0.0)],
    rounds=[RoundView(1, 50, 40, 0, 1, 0.8, 0.9)],
    notes=Notes(
        noted_at=AT - 30,
        quarantines=[Quarantine(node="solver", topic="law", stage=Stage.PROBATION, why="", since=AT)],
        alerts=[Alert(kind="cell_back", subject="one", text="heard again", at=AT - 90)],
    ),
)


def shown(cluster: Cluster | None, lake: Lake | None, width: int = 120, height: int | None = None) -> str:
    """A view as text."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(screen(cluster, lake, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, first: str) -> list[str]:
    """The words of the line that begins with one."""
    (line,) = [line for line in text.splitlines() if line.startswith(first)]
    return line.split()


def test_all_that_is_known_is_shown() -> None:
    """Cells, nodes with what they are kept out of, what waits, topics, rounds, and alerts."""
    text = shown(CLUSTER, LAKE)
    assert "broker here:9092, 2 lanes  lake lake" in text
    assert "2.5 decided/s, 5 rounds under way, 40 messages wait; 1 cells; the root noted something 30 s ago" in text
    assert row(text, "one") == ["one", "2.5", "5", "1,234", "1", "s", "ago", "0-1"]
    assert row(text, "solver") == ["solver", "healthy", "2/8", "3", "0", "%", "0.25", "s", "law", "(probation)"]
    assert row(text, "tasks.global") == ["tasks.global", "40", "100"]
    assert row(text, "all inputs")[-4:] == ["0:", "30,", "1:", "10"]
    assert row(text, "math") == ["math", "12", "60", "50", "4", "3"]
    assert row(text, "round 1") == ["round", "1", "50", "40", "0", "1", "80.0", "%", "90.0", "%"]
    assert row(text, "cell_back") == ["cell_back", "2", "min", "one:", "heard", "again"]


@pytest.mark.parametrize("width", [80, 100, 150, 220])
@pytest.mark.parametrize("height", [10, 24, 60])
def test_a_view_fits_the_terminal(width: int, height: int) -> None:
    """What is too much is counted, and nothing is wider."""
    cluster = msgspec.structs.replace(CLUSTER, cells=[a_cell(f"cell-{n}") for n in range(30)])
    lake = msgspec.structs.replace(LAKE, topics=LAKE.topics * 50)
    lines = shown(cluster, lake, width, height).splitlines()
    assert max(map(len, lines)) <= width
    if height == 60:
        assert len(lines) <= height
    assert any(re.search(r"… and \d+ more", line) for line in lines)


def test_who_is_silent_is_told() -> None:
    """Without a pace."""
    lost = a_cell("lost", silent=True, per_s=None, heard_s=75.0)
    silent_node = a_node("x", silent=True)
    text = shown(msgspec.structs.replace(CLUSTER, cells=[lost, a_cell("one")], nodes=[silent_node]), LAKE)
    assert row(text, "lost") == ["lost", "5", "1,234", "silent", "for", "1", "min", "0-1"]
    assert "1 cells, 1 silent" in text
    assert row(text, "x")[1] == "silent"


def test_what_is_away_is_told_and_the_rest_is_shown() -> None:
    """As it was."""
    cluster = msgspec.structs.replace(CLUSTER, kafka=None, broker_error="no Kafka answers at here:9092")
    text = shown(cluster, msgspec.structs.replace(LAKE, error="no lake at lake"))
    assert "no Kafka answers at here:9092" in text
    assert "lake: no lake at lake" in text
    assert "? messages wait" in text
    assert row(text, "math")[1] == "12"
    nothing_yet = Cluster(at=AT, broker="here:9092")
    assert "without Aureon's Kafka topics yet" in shown(nothing_yet, None)
    assert shown(None, None).strip() == "aureon top: looking …"


def test_what_others_wrote_moves_no_cursor_and_is_no_markup() -> None:
    """Topics and names of nodes are theirs."""
    hostile = "\x1b[2Jx\r\n[bold red]y\u202e"
    lake = msgspec.structs.replace(
        LAKE,
        topics=[TopicView(hostile, 1, 0, 0, 0, 0, 0, 0, 0.0)],
        notes=Notes(noted_at=AT, alerts=[Alert(kind="quarantined", subject=hostile, text=hostile, at=AT)]),
    )
    text = shown(msgspec.structs.replace(CLUSTER, nodes=[a_node(hostile)], cells=[a_cell(hostile)]), lake)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\u202e" not in text
    assert text.count("[2Jx [bold red]y") == 5


def test_lines_are_shared_out() -> None:
    """Who wants few has them; the others share, and each has one."""
    assert fit([2, 10, 20], 20) == [2, 9, 9]
    assert fit([2, 3], 50) == [2, 3]
    assert fit([5, 5, 5], 4) == [2, 1, 1]
    assert fit([5, 5, 0], 1) == [1, 1, 1]
    assert fit([], 10) == []


def test_numbers_and_times_are_told_shortly() -> None:
    """As people read them."""
    assert [ago(s) for s in (-3, 7, 90, 7200, 200_000)] == ["0 s", "7 s", "2 min", "2 h", "2 d"]
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert ranges([]) == ""


def test_an_error_of_a_look_ends_it_where_the_view_is_made() -> None:
    """It is not lost with its thread."""

    def fail() -> int:
        raise KeyError("a fault of our own")

    repeated = Repeated(fail, 0.01)
    repeated._thread.join(30)
    assert repeated.close()
    with pytest.raises(KeyError, match="a fault of our own"):
        _ = repeated.found
    good = Repeated(lambda: 1, 0.01)
    until(lambda: good.found == 1)
    assert good.close()


# -- the command ---------------------------------------------------------------------------------------------------


def test_elsewhere_than_on_a_terminal_there_is_one_view(tmp_path: Path) -> None:
    """Also with nothing there; it makes nothing."""
    done = aureon("top", cwd=tmp_path)
    assert done.returncode == 0
    assert "no broker: set AUREON_BROKERS" in done.stdout
    assert f"lake: no lake at {tmp_path}/.aureon/lake" in done.stdout.replace("\n", "")
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_one_view_in_json(tmp_path: Path) -> None:
    """With all that the view has."""
    done = aureon("top", "--json", cwd=tmp_path, AUREON_BROKERS="127.0.0.1:1")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["cluster"]["broker_error"].startswith("no Kafka answers at 127.0.0.1:1")
    assert told["lake"]["error"].startswith("no lake at")


class OnTerminal:
    """A command on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[Any], master: int, slave: int, mode: list[Any]) -> None:
        self.process = process
        self._master = master
        self._slave = slave
        self._before = mode
        self.said = ""

    def read(self) -> str:
        """All that it has written so far."""
        while select.select([self._master], [], [], 0.1)[0]:
            try:
                self.said += os.read(self._master, 65536).decode(errors="replace")
            except OSError:
                break
        return self.said

    def has_said(self, text: str) -> bool:
        """Whether it has written that so far."""
        return text in self.read()

    def type(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)

    def resize(self, lines: int, columns: int) -> None:
        """Give it another size, and tell the command."""
        termios.tcsetwinsize(self._slave, (lines, columns))
        self.process.send_signal(signal.SIGWINCH)

    def is_as_it_was(self) -> bool:
        """Whether the terminal is: its mode, its screen, its cursor."""
        said = self.read()
        screen_is = said.rfind(BACK) > said.rfind(ALTERNATE)
        return termios.tcgetattr(self._slave) == self._before and screen_is and said.rfind(SHOWN) > said.rfind(HIDDEN)


@contextlib.contextmanager
def on_terminal(*arguments: str | Path, cwd: Path, only_output: bool = False, **variables: str) -> Iterator[OnTerminal]:
    """Run a command on a terminal of 160 columns and 50 lines, and end it with the test.

    Args:
        arguments: of the command.
        cwd: where it runs.
        only_output: its input and its errors are elsewhere.
        variables: of its environment.
    """
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (50, 160))
    mode = termios.tcgetattr(slave)
    shell = {k: v for k, v in environment(**variables).items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process: subprocess.Popen[Any] = subprocess.Popen(
        [*AUREON, *map(str, arguments)],
        cwd=cwd,
        env={**shell, "TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL if only_output else slave,
        stdout=slave,
        stderr=subprocess.DEVNULL if only_output else slave,
        start_new_session=True,
    )
    try:
        yield OnTerminal(process, master, slave, mode)
    finally:
        if process.poll() is None:
            process.terminate()
            process.send_signal(signal.SIGCONT)
        process.wait(60)
        os.close(master)
        os.close(slave)


def test_on_a_terminal_it_shows_the_figures_until_q(own_broker: Broker, tmp_path: Path) -> None:
    """Of a cell that works; and the terminal is as it was."""
    brokers = own_broker.brokers
    assert aureon("submit", "-", cwd=tmp_path, stdin=TASKS, AUREON_BROKERS=brokers).returncode == 0
    with (
        running("run", cwd=tmp_path, AUREON_BROKERS=brokers),
        on_terminal("top", "--every", "0.3", cwd=tmp_path, AUREON_BROKERS=brokers) as top,
    ):
        for wanted in ("decided/s", "embedded-symbolic", "math", "round 1", "tasks.global", "all inputs"):
            until(partial(top.has_said, wanted), 60, top.process)
        assert ALTERNATE in top.said
        assert HIDDEN in top.said
        assert not top.is_as_it_was()
        top.type(b"xq")
        until(lambda: top.read() and top.process.poll() is not None, 60)
        assert top.process.returncode == 0
        assert top.is_as_it_was()
        assert "Traceback" not in top.said


@pytest.mark.parametrize(
    "end",
    [
        lambda top: top.type(b"q"),
        lambda top: top.process.send_signal(signal.SIGINT),
        lambda top: top.process.send_signal(signal.SIGTERM),
        lambda top: top.process.send_signal(signal.SIGHUP),
    ],
    ids=["q", "SIGINT", "SIGTERM", "SIGHUP"],
)
def test_without_a_broker_it_goes_on_trying_until_it_is_ended(
    end: Callable[[OnTerminal], None], tmp_path: Path
) -> None:
    """However that is, the terminal is as it was."""
    with on_terminal("top", cwd=tmp_path, AUREON_BROKERS="127.0.0.1:1") as top:
        until(lambda: "no Kafka answers at 127.0.0.1:1" in top.read(), 60, top.process)
        assert "no lake at" in top.said
        time.sleep(0.5)
        assert top.process.poll() is None
        end(top)
        until(lambda: top.read() and top.process.poll() is not None, 60)
        assert top.process.returncode == 0
        assert top.is_as_it_was()
        assert "Traceback" not in top.said


def stands_still(pid: int) -> bool:
    """Tell whether a process has been stopped, and not ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")


def test_while_it_is_paused_the_terminal_is_as_it_was(tmp_path: Path) -> None:
    """Ctrl-Z; and it goes on where it was."""
    with on_terminal("top", cwd=tmp_path, AUREON_BROKERS="127.0.0.1:1") as top:
        until(lambda: "no Kafka answers" in top.read(), 60, top.process)
        top.process.send_signal(signal.SIGTSTP)
        until(lambda: top.is_as_it_was() and stands_still(top.process.pid), 60, top.process)
        screens = top.said.count(ALTERNATE)
        top.process.send_signal(signal.SIGCONT)
        until(lambda: top.read().count(ALTERNATE) > screens, 60, top.process)
        top.type(b"q")
        until(lambda: top.read() and top.process.poll() is not None, 60)
        assert top.is_as_it_was()


def test_other_keys_and_another_size_end_nothing(tmp_path: Path) -> None:
    """It is drawn anew in its new size."""
    with on_terminal("top", "--every", "30", cwd=tmp_path, AUREON_BROKERS="127.0.0.1:1") as top:
        until(lambda: top.has_said("waiting") or top.has_said("no Kafka answers"), 60, top.process)
        top.type(b"x")
        time.sleep(0.3)
        drawn = len(top.read())
        top.resize(20, 60)
        until(lambda: len(top.read()) > drawn, 60, top.process)
        top.type(b"q")
        until(lambda: top.read() and top.process.poll() is not None, 60)
        assert top.process.returncode == 0


def test_it_needs_a_terminal_for_its_output_alone(tmp_path: Path) -> None:
    """Without keys a signal ends it."""
    with on_terminal("top", cwd=tmp_path, only_output=True, AUREON_BROKERS="127.0.0.1:1") as top:
        until(lambda: top.has_said("no Kafka answers"), 60, top.process)
        top.process.send_signal(signal.SIGTERM)
        until(lambda: top.read() and top.process.poll() is not None, 60)
        assert top.process.returncode == 0
        assert top.is_as_it_was()


def test_on_a_terminal_a_long_command_has_a_bar(tmp_path: Path) -> None:
    """And the result below it, without the bar."""
    writer = lake_writer(tmp_path / "lake")
    writer.add(decisions(0, range(10)))
    writer.flush()
    writer.close()
    with on_terminal("verify", "--home", tmp_path, cwd=tmp_path) as command:
        until(lambda: command.read() and command.process.poll() is not None, 60)
        assert command.process.returncode == 0
        assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in command.said
        assert "records" in command.said


def test_tasks_may_be_typed(own_broker: Broker, tmp_path: Path) -> None:
    """With a word on how, and a bar."""
    with on_terminal("submit", "-", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers) as submit:
        until(partial(submit.has_said, "a JSON object a line; Ctrl-D ends"), 60, submit.process)
        submit.type(b'{"topic": "math", "payload": {"prompt": "1 + 1"}}\n\x04')
        until(lambda: submit.read() and submit.process.poll() is not None, 60)
        assert submit.process.returncode == 0
        assert "submitting" in submit.said
        assert "1 task submitted to" in submit.said


def test_a_demo_on_a_terminal_has_a_bar_and_a_report_of_its_width(tmp_path: Path) -> None:
    """To its end."""
    with on_terminal("demo", "--tasks", "2", cwd=tmp_path) as demo:
        until(lambda: demo.read() and demo.process.poll() is not None, 300)
        assert demo.process.returncode == 0
        assert "starting" in demo.said
        assert "2 tasks and" in demo.said
