"""`aureon run`: what it refuses, how it stops, and that it does its work."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.cell import Cell
from flows.commands.run import StatusLine
from flows.engine import muffled_engine
from flows.figures import LakeCounts
from flows.running import Interrupts, Watch, locked, recovery_folder, running_pid
from flows.settings import Settings
from flows.stopping import Stopping
from schemas.errors import RefusedError, TryAgainError
from tests.aureon_command import aureon, environment, running, said, until
from tests.brokers import Broker, new_broker

TASKS = "".join(
    json.dumps({"topic": "math", "logical_id": f"t{n}", "payload": {"prompt": f"Solve for m: {n}*m = {n * n}"}}) + "\n"
    for n in range(1, 41)
)


def test_an_unreachable_broker_is_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    """How long it is waited for is tested where that is done: here other tests run beside the start of a process."""
    done = aureon("run", cwd=tmp_path, AUREON_BROKERS="127.0.0.1:1")
    assert done.returncode == 1, "it may answer when this is started again"
    assert done.stderr.startswith("aureon: no Kafka answers at 127.0.0.1:1")
    assert "set AUREON_BROKERS" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "flag, value", [("--nodes", "nowhere:nodes"), ("--policy", "flows.policies:Missing"), ("--verifiers", "json")]
)
def test_what_cannot_be_imported_ends_the_start(flag: str, value: str, own_broker: Broker, tmp_path: Path) -> None:
    """And not the first task."""
    done = aureon("run", flag, value, cwd=tmp_path, AUREON_BROKERS=own_broker.brokers)
    assert done.returncode == 2
    assert f"AUREON_{flag[2:].upper()}={value!r}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_second_run_on_a_state_folder_is_refused_at_once(own_broker: Broker, tmp_path: Path) -> None:
    """It names the process that has it; `status` does too."""
    with running("run", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers) as first:
        until(lambda: "Ctrl-C stops it" in said(tmp_path), process=first)
        done = aureon("run", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers)
        assert done.returncode == 2
        assert f"the state folder .aureon/state is in use by process {first.pid}: stop that one" in done.stderr
        status = json.loads(aureon("status", "--json", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers).stdout)
        assert status["cell_pid"] == first.pid
    assert running_pid(tmp_path / ".aureon" / "state") is None


def test_a_state_folder_of_another_broker_is_refused_with_the_cure(own_broker: Broker, tmp_path: Path) -> None:
    """Its offsets mean nothing there."""
    elsewhere = new_broker(tmp_path / "elsewhere")
    elsewhere.start()
    try:
        assert aureon("run", "--until-idle", "1", cwd=tmp_path, AUREON_BROKERS=elsewhere.brokers).returncode == 0
    finally:
        elsewhere.stop()
    done = aureon("run", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers)
    assert done.returncode == 2
    assert "the state folder .aureon/state belongs to the cluster" in done.stderr
    assert "set AUREON_BROKERS" in done.stderr
    assert "or AUREON_STATE to another folder" in done.stderr


def test_a_cell_whose_own_broker_is_killed_says_so_and_ends(tmp_path: Path) -> None:
    """It would wait for one that can only come back without what it had acknowledged."""
    with running("run", cwd=tmp_path) as cell:
        until(lambda: "Ctrl-C stops it" in said(tmp_path), process=cell)
        broker = json.loads((tmp_path / ".aureon" / "broker" / "broker.json").read_bytes())
        os.kill(broker["pid"], signal.SIGKILL)
        assert cell.wait(60) == 1
        assert "the embedded broker in" in said(tmp_path)
        assert "was killed: what it acknowledged in its last seconds is gone" in said(tmp_path)


def test_tasks_become_records_and_sigterm_stops_gracefully(own_broker: Broker, tmp_path: Path) -> None:
    """Everything that was decided is in the lake, and the next run goes on from there."""
    brokers = own_broker.brokers
    assert aureon("submit", "-", cwd=tmp_path, stdin=TASKS, AUREON_BROKERS=brokers).returncode == 0
    with running("run", "--verbose", cwd=tmp_path, AUREON_BROKERS=brokers) as cell:

        def ended() -> bool:
            status = json.loads(aureon("status", "--json", cwd=tmp_path, AUREON_BROKERS=brokers).stdout)
            return bool(status["total"]["converged"] + status["total"]["dead"] >= 40)

        until(ended, 60, cell)
        cell.send_signal(signal.SIGTERM)
        assert cell.wait(60) == 0
    assert "stopping: waiting up to 10 s" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    done = aureon("sql", "--json", "SELECT count(*) AS n FROM one WHERE topic = 'math'", cwd=tmp_path)
    assert json.loads(done.stdout) == [{"n": 40}]
    again = aureon("submit", "-", cwd=tmp_path, stdin=TASKS, AUREON_BROKERS=brokers)
    assert again.returncode == 0
    done = aureon("run", "--until-idle", "2", cwd=tmp_path, AUREON_BROKERS=brokers)
    assert done.returncode == 0, done.stderr
    assert "idle for 2 s, stopping" in done.stderr
    status = json.loads(aureon("status", "--json", cwd=tmp_path, AUREON_BROKERS=brokers).stdout)
    assert status["waiting"] == 0
    assert status["total"]["open"] == 0
    assert sum(i["messages"] for i in status["kafka"]["inputs"].values()) > 80
    done = aureon("sql", "--json", "SELECT count(*) AS n FROM records WHERE topic = 'math'", cwd=tmp_path)
    assert json.loads(done.stdout) == [{"n": 40}]


def test_an_error_in_a_step_ends_the_run_in_one_line(own_broker: Broker, tmp_path: Path) -> None:
    """What the engine has to say of it is in the state folder, not on the terminal."""
    (tmp_path / "picky.py").write_text(
        "from schemas.errors import RefusedError\n"
        "class Policy:\n"
        "    name = 'picky'\n"
        "    def __init__(self, settings): pass\n"
        "    def judge(self, result, situation): raise RefusedError('this policy likes nothing')\n"
    )
    brokers = own_broker.brokers
    assert aureon("submit", "-", cwd=tmp_path, stdin=TASKS, AUREON_BROKERS=brokers).returncode == 0
    done = aureon("run", "--policy", "picky:Policy", cwd=tmp_path, AUREON_BROKERS=brokers)
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == ["aureon: this policy likes nothing"]


def test_ctrl_c_before_the_flow_runs_ends_with_130(tmp_path: Path) -> None:
    """While it waits for a broker, for example."""
    with running("run", cwd=tmp_path, AUREON_BROKERS="10.255.255.1:9092") as cell:
        until((tmp_path / ".aureon" / "state" / "run.lock").exists)
        time.sleep(0.5)
        cell.send_signal(signal.SIGINT)
        assert cell.wait(60) == 130
    assert said(tmp_path) == "aureon: interrupted\n"


def test_the_embedded_broker_is_started_and_stopped(tmp_path: Path) -> None:
    """With the run that needs it, unless it runs already."""
    done = aureon("run", "--until-idle", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(embedded), 4 lanes; lake .aureon/lake; 3 nodes: embedded-symbolic" in done.stderr
    with running("broker", cwd=tmp_path) as broker:
        until(lambda: "Kafka at 127.0.0.1:" in said(tmp_path), process=broker)
        assert "loses the last seconds" in said(tmp_path).replace("\n", " ")
        assert aureon("run", "--until-idle", "1", cwd=tmp_path).returncode == 0
        assert broker.poll() is None
        second = aureon("broker", cwd=tmp_path)
        assert second.returncode == 2
        assert "its broker already runs at" in second.stderr
        broker.send_signal(signal.SIGINT)
        assert broker.wait(60) == 0
    assert "stopped; the messages are saved" in said(tmp_path)


def test_the_recovery_store_is_made_once(tmp_path: Path) -> None:
    """And what a process left that died in the middle is cleared away."""
    folder = recovery_folder(tmp_path)
    before = sorted(folder.iterdir())
    assert len(before) == 4
    (tmp_path / "recovery.left").mkdir()
    assert recovery_folder(tmp_path) == folder
    assert sorted(folder.iterdir()) == before
    assert not (tmp_path / "recovery.left").exists()


def test_a_state_folder_has_one_owner(tmp_path: Path) -> None:
    """Within a process too, and it is free again afterwards."""
    with locked(tmp_path):
        assert running_pid(tmp_path) == os.getpid()
        with pytest.raises(RefusedError, match=f"in use by process {os.getpid()}"), locked(tmp_path):
            pass
    assert running_pid(tmp_path) is None
    with locked(tmp_path):
        pass


def test_who_only_looks_at_a_state_folder_keeps_nobody_from_it(tmp_path: Path) -> None:
    """`aureon status` may be run every second."""
    with locked(tmp_path):
        pass
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            running_pid(tmp_path)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(200):
            with locked(tmp_path):
                pass
    finally:
        over.set()
        looker.join()


def test_what_the_engine_writes_by_itself_goes_to_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What Python writes does not."""
    with muffled_engine(tmp_path / "engine.log"):
        os.write(2, b"thread panicked\n")
        sys.stderr.write("a word for the user\n")
    os.write(2, b"afterwards\n")
    assert (tmp_path / "engine.log").read_text() == "thread panicked\n"
    assert capfd.readouterr().err == "a word for the user\nafterwards\n"


def test_a_process_that_a_library_takes_down_says_where(tmp_path: Path) -> None:
    """On stderr, though what the engine writes does not go there."""
    code = (
        "import ctypes, pathlib\n"
        "from flows.engine import muffled_engine\n"
        "with muffled_engine(pathlib.Path('engine.log')):\n"
        "    ctypes.string_at(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in done.stderr
    assert "string_at" in done.stderr


def test_a_signal_in_the_middle_of_a_line_stops_it_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being written to cannot be written to then: Python says so by an error, which loses no stop."""

    class Busy(io.StringIO):
        def write(self, _text: str) -> int:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name=2>")

    stopping = Stopping(30.0)
    with Interrupts(stopping) as interrupts, interrupts.graceful():
        monkeypatch.setattr(sys, "stderr", Busy())
        signal.raise_signal(signal.SIGTERM)
    assert stopping.asked


def test_the_second_signal_waits_for_nothing_and_the_third_ends_at_once() -> None:
    """As a crash would."""
    stopping = Stopping(60.0)
    with Interrupts(stopping) as interrupts, interrupts.graceful():
        signal.raise_signal(signal.SIGTERM)
        assert (interrupts.asked, stopping.asked, stopping.drained) == (True, True, False)
        signal.raise_signal(signal.SIGINT)
        assert stopping.drained
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_figures_that_cannot_be_had_end_nothing(
    own_broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next second may have them; before there are any, nothing is idle."""
    cell = Cell(Settings(home=str(tmp_path), brokers=own_broker.brokers))
    cell.connect()
    StatusLine(cell, lines=True, until_idle_s=0.0)(None, LakeCounts())
    assert not cell.stopping.asked
    seen: list[object] = []

    def fail(kafka: object, _lake: object) -> None:
        seen.append(kafka)
        raise TryAgainError("not now") if len(seen) == 1 else KeyError("a fault of our own")

    with Watch(cell, fail):
        until(lambda: len(seen) >= 3)
    cell.close()
    assert [record.getMessage() for record in caplog.records][:2] == ["no figures: not now", "no figures"]
