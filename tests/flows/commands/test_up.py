"""`aureon up`: a cluster under supervisord, what it survives, and how it ends."""

import configparser
import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.embedded import EmbeddedBroker
from flows.commands.arguments import make_parser, settings_of
from flows.commands.up import Program, Supervised, alone, cluster, configuration, environment, write_configuration
from schemas.errors import RefusedError
from tests.aureon_command import aureon, running, said, until
from tests.brokers import Broker
from tests.chaos.audit import LogFollower, PollingReader, audit, undecided
from tests.chaos.test_crash import settled

LANES = 4
TASKS = 60
MODELS = ("--nodes", "tests.chaos.nodes:random_nodes", "--score-threshold", "1.0", "--in-flight", "2")
"""They never agree, so every task takes all its rounds, and a lane some ten seconds for all of its own."""
CLUSTER = ("up", "--cells", "3", *MODELS)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name, whatever the test's: the path of a socket may not be long."""
    return tmp_path_factory.mktemp("up")


def tasks() -> str:
    """Some, one JSON object a line."""
    return "".join(
        json.dumps({"topic": "any", "logical_id": f"t{n}", "payload": {"prompt": f"question {n}"}}) + "\n"
        for n in range(TASKS)
    )


def processes(folder: Path) -> list[int]:
    """All that run in a folder: `aureon up`, supervisord, its programs, and what they have started."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended
                if (process / "cwd").readlink() == folder:
                    found.append(int(process.name))
    return found


def decided(follower: LogFollower) -> int:
    """How many decisions there are by now."""
    follower.poll()
    return len(follower.winners)


def programs_of(*arguments: str) -> list[Program]:
    """What a command line comes to."""
    options = make_parser().parse_args(["up", *arguments])
    return cluster(options, settings_of(options, {}))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_cell_is_back_and_nothing_is_lost(tmp_path: Path, figures: Callable[[str], None]) -> None:
    """While it runs, another `up` is refused, and `status` knows its cells; Ctrl-C ends all in order."""
    home = tmp_path / ".aureon"
    calls = {"CHAOS_CALLS": str(tmp_path / "calls.txt")}
    with running(*CLUSTER, cwd=tmp_path, **calls) as up:
        until(lambda: "cell 3 started" in said(tmp_path), 120, up)
        assert stat.S_IMODE((home / "supervisord.sock").stat().st_mode) == 0o700
        cells: dict[str, int] = {}
        while len(cells) < 3:
            cells = json.loads(aureon("status", "--json", cwd=tmp_path).stdout)["cell_pids"]
        assert f"cells      3 of `aureon up` running: 1 pid {cells['1']}" in aureon("status", cwd=tmp_path).stdout
        assert aureon("submit", "--lanes", str(LANES), "-", cwd=tmp_path, stdin=tasks()).returncode == 0
        follower, reader = LogFollower(EmbeddedBroker(home / "broker").brokers, LANES), PollingReader(home / "lake")
        until(lambda: decided(follower) > TASKS // 2, 120, up)
        os.kill(cells["2"], signal.SIGKILL)
        until(lambda: "cell 2 started again" in said(tmp_path), 20, up)
        assert undecided(follower)
        again = aureon("up", cwd=tmp_path)
        assert (again.returncode, again.stderr.count("\n")) == (2, 1)
        assert f"has an `aureon up` already, process {up.pid}: stop that one" in again.stderr
        until(lambda: settled(follower, reader), 240, up)
        follower.close()
        up.send_signal(signal.SIGINT)
        assert up.wait(120) == 0
    reader.look()
    found = audit(follower, home / "lake")
    figures(str(found))
    assert found.faults() == 0, found.examples
    assert reader.vanished == 0
    assert found.records >= TASKS
    assert "cell 2 died: killed by SIGKILL; its log is .aureon/cells/2.log\n" in said(tmp_path)
    ends = re.findall(r"^(.*) stopped$", said(tmp_path), re.MULTILINE)
    assert (sorted(ends), ends[-1]) == (["broker", "cell 1", "cell 2", "cell 3", "root"], "broker")
    assert processes(tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_killed_up_has_left_ends_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """It waits until that has ended in order."""
    calls = {"CHAOS_CALLS": str(tmp_path / "calls.txt")}
    with running(*CLUSTER, cwd=tmp_path, **calls) as up:
        until(lambda: "cell 3 started" in said(tmp_path), 120, up)
        assert aureon("submit", "--lanes", str(LANES), "-", cwd=tmp_path, stdin=tasks()).returncode == 0
        until(lambda: (tmp_path / "calls.txt").exists() and (tmp_path / "calls.txt").stat().st_size > 100, 120, up)
        up.kill()
        up.wait()
    with running(*CLUSTER, "--until-idle", "3", cwd=tmp_path, **calls) as up:
        assert up.wait(300) == 0, said(tmp_path)
    assert "waiting until all has stopped that process" in said(tmp_path)
    assert said(tmp_path).endswith("stopped; start it again and it goes on where it stood\n")
    assert processes(tmp_path) == []
    done = aureon("sql", "--json", "SELECT count(*) AS n FROM one WHERE topic = 'any'", cwd=tmp_path)
    assert json.loads(done.stdout) == [{"n": TASKS}]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.apache
def test_cells_of_two_clusters_share_the_lanes_of_kafka(own_broker: Broker, tmp_path: Path) -> None:
    """The second one just adds its own, and takes them away again; no call is made twice."""
    brokers, calls = own_broker.brokers, tmp_path / "calls.txt"
    shared = ("--lake", ".aureon/lake", "--blobs", ".aureon/blobs", "--key-file", ".aureon/cluster.key")

    def works(home: str) -> bool:
        """Whether a cell of it was given a lane."""
        return any("are this cell's" in log.read_text() for log in (tmp_path / home / "cells").glob("?.log"))

    here = ("up", "--cells", "1", "--brokers", brokers, "--lanes", str(LANES), *MODELS, "--verbose")
    with running(*here, cwd=tmp_path, CHAOS_CALLS=str(calls)) as first:
        until(lambda: works(".aureon"), 120, first)
        assert aureon("submit", "--brokers", brokers, "-", cwd=tmp_path, stdin=tasks()).returncode == 0
        with running(*here, "--home", "other", *shared, cwd=tmp_path, CHAOS_CALLS=str(calls)) as second:
            until(lambda: works("other"), 120, second)
            time.sleep(3)
            second.send_signal(signal.SIGTERM)
            assert second.wait(120) == 0

        def left() -> int:
            status = json.loads(aureon("status", "--json", "--brokers", brokers, cwd=tmp_path).stdout)
            waiting = status["waiting"]  # None where the broker was too busy to say
            return 1 if waiting is None else int(waiting + status["total"]["open"])

        until(lambda: not left(), 240, first)
        first.send_signal(signal.SIGTERM)
        assert first.wait(120) == 0
    asked = calls.read_text().splitlines()
    assert len(asked) == len(set(asked))
    done = aureon("sql", "--json", "SELECT count(*) AS n FROM one WHERE topic = 'any'", cwd=tmp_path)
    assert json.loads(done.stdout) == [{"n": TASKS}]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_goes_on_without_supervisord(tmp_path: Path) -> None:
    """The cells are killed with it, and the broker saves its messages."""
    home = tmp_path / ".aureon"
    with running("up", "--cells", "2", cwd=tmp_path) as up:
        until(lambda: "cell 2 started" in said(tmp_path), 120, up)
        assert len(processes(tmp_path)) >= 6  # with the command `broker` and the broker itself
        assert aureon("submit", "--lanes", str(LANES), "-", cwd=tmp_path, stdin=tasks()).returncode == 0
        os.kill(int((home / "cells" / "supervisord.pid").read_text()), signal.SIGKILL)
        assert up.wait(60) == 1
    assert "aureon: supervisord ended by itself (-9); its log is .aureon/cells/supervisord.log" in said(tmp_path)
    until(lambda: processes(tmp_path) == [])
    with EmbeddedBroker(home / "broker") as broker:
        follower = LogFollower(broker.brokers, LANES)
        follower.poll()
        follower.close()
    assert len(follower.messages) >= TASKS


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "nodes, code, words",
    [
        ("nowhere:nodes", 2, r"cell \d is refused again and again: AUREON_NODES='nowhere:nodes': No module named"),
        ("dying:nodes", 1, r"cell \d cannot be kept alive: exit code 7; its log is \.aureon/cells/\d\.log"),
    ],
    ids=["refused", "dying"],
)
def test_a_cell_that_cannot_start_ends_it_all(nodes: str, code: int, words: str, tmp_path: Path) -> None:
    """After a few tries; what the cell said is the message."""
    (tmp_path / "dying.py").write_text("import os\nos._exit(7)\n")
    with running("up", "--cells", "2", "--nodes", nodes, cwd=tmp_path) as up:
        assert up.wait(240) == code, said(tmp_path)
    assert re.search(rf"^aureon: {words}", said(tmp_path).splitlines()[-1]), said(tmp_path)
    assert said(tmp_path).count("was refused") <= 2
    assert processes(tmp_path) == []


def test_a_wrong_setting_is_refused_at_once(tmp_path: Path) -> None:
    """Nothing is started for it."""
    done = aureon("up", "--max-rounds", "many", cwd=tmp_path)
    assert done.returncode == 2
    assert "--max-rounds='many'" in done.stderr
    assert not (tmp_path / ".aureon").exists()


def test_the_broker_comes_first_and_cells_have_fixed_lanes() -> None:
    """Where the broker is the embedded one."""
    first, root, *cells = programs_of("--cells", "2", "--until-idle", "4", "--verbose", "--log-level", "info")
    assert (first.name, first.awaits_broker) == ("broker", False)
    assert root.arguments == ("supervise", "--state", "%(here)s/root")
    assert all(program.awaits_broker for program in (root, *cells))
    written = configuration([first, root, *cells])
    assert (written.count("autostart = true"), written.count("autostart = false")) == (1, 3)
    assert cells[1].arguments == (
        *(
            "run",
            "--state",
            "%(here)s/cells/2",
            "--cell",
            "2/2",
            "--until-idle",
            "4.0",
            "--log-level",
            "info",
            "--verbose",
        ),
    )


def test_on_another_broker_a_group_hands_the_lanes_out() -> None:
    """So cells elsewhere have theirs, too."""
    _root, *cells = programs_of("--brokers", "kafka:9092", "--drain-s", "7")
    assert [cell.name for cell in cells] == ["cell-1", "cell-2", "cell-3"]
    assert not any("--cell" in cell.arguments for cell in cells)
    assert configuration(cells).count("autostart = true") == 3
    assert all(cell.stop_s > 7 for cell in cells)


def test_each_has_a_port_of_its_own_for_metrics() -> None:
    """The root that of the settings, and the cells those that follow."""
    _broker, *others = programs_of("--cells", "2", "--metrics", "[::1]:9464")
    told = [program.arguments[program.arguments.index("--metrics") + 1] for program in others]
    assert told == ["[::1]:9464", "[::1]:9465", "[::1]:9466"]
    with pytest.raises(RefusedError, match="expected PORT or HOST:PORT"):
        programs_of("--metrics", "everywhere")


def test_flags_are_variables_of_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password is in no file and in no list of processes; what tells cells apart is not theirs to share."""
    monkeypatch.setenv("AUREON_CELL", "1/1")
    monkeypatch.setenv("AUREON_LANES", "8")
    options = make_parser().parse_args(["up", "--kafka-config", "sasl.password=secret", "--lanes", "6"])
    variables = environment(options, settings_of(options))
    assert "AUREON_CELL" not in variables
    assert variables["AUREON_LANES"] == "6"
    assert variables["AUREON_KAFKA_CONFIG"] == "sasl.password=secret"
    assert "secret" not in configuration(cluster(options, settings_of(options)))


def test_supervisord_listens_on_a_socket_of_its_owner_alone(tmp_path: Path) -> None:
    """And on no port."""
    write_configuration(tmp_path, programs_of("--cells", "2"))
    parser = configparser.RawConfigParser()
    parser.read(tmp_path / "supervisord.conf")
    assert "inet_http_server" not in parser
    assert dict(parser["unix_http_server"]) == {"file": "%(here)s/supervisord.sock", "chmod": "0700"}
    assert dict(parser["group:broker"]) == {"programs": "broker", "priority": "0"}
    assert dict(parser["group:root"]) == {"programs": "root", "priority": "1"}
    assert dict(parser["group:cell"]) == {"programs": "cell-1,cell-2", "priority": "2"}
    assert parser["program:cell-1"]["stdout_logfile"] == "%(here)s/cells/1.log"


def test_a_home_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    """With the cure."""
    deep = tmp_path / ("d" * 100)
    with pytest.raises(RefusedError, match="choose a --home with a shorter one"):
        write_configuration(deep, programs_of())


def test_a_home_has_one_up(tmp_path: Path) -> None:
    """The other one is named, and the home is free again afterwards."""
    with alone(tmp_path), pytest.raises(RefusedError, match=f"process {os.getpid()}"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_a_cell_that_does_not_stop_is_told_and_one_that_is_done_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second Ctrl-C is for the cells that still run: they wait for nothing then."""
    supervised = Supervised(tmp_path, programs_of("--cells", "2"), None)
    one, two = (supervised._programs[name] for name in ("cell-1", "cell-2"))
    supervised._stopping = True
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as runs:
        supervised._on_start(one, str(runs.pid))
        supervised._on_exit(two, "0")
        supervised._on_gave_up(two)
        supervised._on_kill(one)
        supervised._on_signal(signal.SIGINT, None)
        assert runs.wait(60) == -signal.SIGTERM
    assert supervised._failure is None
    assert [line.partition(";")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"cell 1 started, process {runs.pid}",
        "cell 2 has ended",
        f"cell 1 did not stop within {one.program.stop_s:g} s and is killed",
    ]
