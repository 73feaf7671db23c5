"""Processes end with the one that they work for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from connectors.processes import bound, end_with_parent
from tests.aureon_command import environment, finished, is_alive, until

PARENT = """
import os, time
from pathlib import Path
from connectors import processes

def end_with_parent(end_with_parent=processes.end_with_parent):
    Path("begun").write_text(str(os.getpid()))
    time.sleep({late_s})
    end_with_parent()

processes.end_with_parent = end_with_parent

if __name__ == "__main__":
    with processes.WorkerPool(1) as pool:
        pool.submit(time.sleep, 60).result()
"""


@pytest.mark.parametrize("late_s", [0, 2], ids=["at_work", "not_yet_begun"])
def test_a_worker_ends_with_its_parent(tmp_path: Path, late_s: int) -> None:
    """Also if it comes to look for it when it is gone already."""
    (tmp_path / "parent.py").write_text(PARENT.replace("{late_s}", str(late_s)))
    begun = tmp_path / "begun"
    with subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, env=environment()) as parent:
        until(lambda: begun.exists() and begun.read_text() != "")
        time.sleep(0.5)
        parent.kill()
    until(lambda: not is_alive(begun.read_text()))


INTERRUPTED = """
import os, signal, sys, threading, time
from connectors.processes import WorkerPool

if __name__ == "__main__":
    os.setpgrp()
    at_s = float(sys.argv[1])
    threading.Timer(at_s, os.killpg, (0, signal.SIGINT)).start()
    try:
        with WorkerPool(2, time.sleep, (0.1,)) as pool:
            for _ in pool.map(time.sleep, [0.3] * int(sys.argv[2])):
                pass
            time.sleep(60)
    except KeyboardInterrupt:
        print("in order", flush=True)
"""


@pytest.mark.parametrize("at_s, calls", [(0.05, 4), (0.3, 4), (1.0, 1000), (3.0, 4)])
def test_ctrl_c_ends_a_pool_without_a_word_of_its_processes(at_s: float, calls: int, tmp_path: Path) -> None:
    """While they begin, while they work, and while they wait; what has not begun does not begin."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    began = time.monotonic()
    done = finished("interrupted.py", str(at_s), str(calls), cwd=tmp_path)
    assert time.monotonic() - began < 45  # the thousand calls would take 150 s
    assert (done.stdout, done.stderr, done.returncode) == ("in order\n", "", 0)


def test_only_a_process_that_was_started_has_a_parent_to_end_with() -> None:
    """Else it would end at once."""
    with pytest.raises(ValueError, match="not started"):
        end_with_parent()


STARTER = """
import os, signal, subprocess, sys
from connectors.processes import bound

own = "import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(open('told', 'w').close())); "
command = bound(signal.SIGUSR1, [sys.executable, "-c", own + "open('begun', 'w').close(); time.sleep(60)"])
child = subprocess.Popen(command, stdin=subprocess.PIPE)
while not os.path.exists("begun"):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_program_gets_a_signal_when_the_one_that_started_it_was_killed(tmp_path: Path) -> None:
    """Its own, so it may end in order."""
    subprocess.run([sys.executable, "-c", STARTER], cwd=tmp_path, env=environment(), timeout=30, check=False)
    until((tmp_path / "told").exists)


def test_a_program_whose_starter_has_ended_does_not_begin(tmp_path: Path) -> None:
    """Nothing would ever tell it."""
    command = bound(signal.SIGTERM, [sys.executable, "-c", "open('begun', 'w').close()"])
    ours, theirs = os.pipe()
    os.close(theirs)  # as if it had ended
    try:
        subprocess.run(command, cwd=tmp_path, env=environment(), stdin=ours, timeout=30, check=True)
    finally:
        os.close(ours)
    assert not (tmp_path / "begun").exists()
