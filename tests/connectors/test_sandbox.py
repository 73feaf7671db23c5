"""The sandbox, attacked: each bomb is stopped within its limits, with a verdict, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.sandbox import Limits, Sandbox, SandboxVerdict, _by_signal
from schemas.errors import RefusedError
from tests.aureon_command import environment, until

MEMORY = 128 << 20
LIMITS = Limits(10.0, MEMORY)
"""Far more time than any of these takes, also where all processors are busy."""
SHORT = Limits(1.0, MEMORY)
"""For what only time ends."""
FIRST = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
"""What a program does that goes round the interpreter."""
TELL = "raise ValueError(f'{done} {os.strerror(ctypes.get_errno())}')"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs have their folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def sandbox(place: Path) -> Iterator[Sandbox]:
    """One that leaves neither a folder nor a process behind."""
    made = Sandbox(LIMITS)
    yield made
    made.close()
    assert not list(place.glob("aureon-sandbox-*"))
    own = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    assert not [child for task in own for child in task.read_text().split() if _runs_a_sandbox(child)]


def _runs_a_sandbox(process: str) -> bool:
    try:
        return b"sandbox_child.py" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def ran(sandbox: Sandbox, program: str, tests: str = "") -> SandboxVerdict:
    """Run it; it never takes much longer than its limit."""
    began = time.monotonic()
    verdict = sandbox.run(program, tests)
    assert time.monotonic() - began < sandbox.limits.wall_s + 3.0
    return verdict


def test_a_program_that_passes_its_tests_passes(sandbox: Sandbox) -> None:
    """And is true."""
    verdict = ran(sandbox, "def double(x): return 2 * x", "assert double(21) == 42")
    assert verdict.kind == "passed"
    assert verdict


@pytest.mark.parametrize(
    "program, tests, told",
    [
        ("def f(x): return x", "assert f(1) == 2, 'too small'", "the tests: AssertionError: too small"),
        ("def f(", "", "the program: SyntaxError"),
        ("x = 1", "y", "the tests: NameError: name 'y' is not defined"),
        ("raise SystemExit(0)", "assert False", "the program: SystemExit: 0"),
        ("import os; os._exit(0)", "assert False", "it ended before its tests did"),
        ("import sys; sys.exit()", "", "the program: SystemExit"),
        ("def f(n): return f(n + 1)\nf(0)", "", "the program: RecursionError"),
        ("import ctypes; ctypes.string_at(0)", "", "ended by SIGSEGV"),
        ("input()", "", "the program: EOFError"),
    ],
)
def test_one_that_does_not_says_why(sandbox: Sandbox, program: str, tests: str, told: str) -> None:
    """To end is not to pass, whichever way."""
    verdict = ran(sandbox, program, tests)
    assert (verdict.kind, verdict.limit) == ("failed", "")
    assert verdict.detail.startswith(told)
    assert not verdict


BOMBS = {
    "fork bomb": ("import os\nwhile True: os.fork()", "processes"),
    "a shell": ("import os; os.system('sleep 60')", "processes"),
    "a subprocess": ("import subprocess; subprocess.run(['sleep', '60'])", "processes"),
    "a signal to its parent": ("import os; os.kill(os.getppid(), 9)", "processes"),
    "memory bomb": ("x = []\nwhile True: x.append(bytearray(10**6))", "memory"),
    "one large piece of memory": ("x = bytearray(10**11)", "memory"),
    "infinite loop": ("while True: pass", "time"),
    "infinite loop that ignores signals": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "time",
    ),
    "sleep": ("import time; time.sleep(60)", "time"),
    "a file outside": ("print(open('/etc/passwd').read())", "files"),
    "its environment": ("print(open('/proc/self/environ').read())", "files"),
    "a folder outside": ("import os; print(os.listdir('/'))", "files"),
    "the rights of a file outside": ("import os; os.chmod('/etc/hostname', 0o777)", "files"),
    "the time of a file outside": ("import os; os.utime('/etc/hostname', (0, 0))", "files"),
    "the end of a file outside": ("import os; os.truncate('/etc/hostname', 0)", "files"),
    "a file up the tree": ("open('../../etc/passwd')", "files"),
    "a socket": ("import socket; socket.create_connection(('127.0.0.1', 9))", "network"),
    "a name": ("import socket; socket.getaddrinfo('localhost', 80)", "network"),
    "1 GB into a file": ("f = open('x', 'wb')\nwhile True: f.write(b'x' * 10**6)", "file size"),
    "1 GB into many files": (
        "i = 0\nwhile True:\n    i += 1\n    open(f'x{i}', 'wb').write(b'x' * 10**6)",
        "file size",
    ),
    "files without number": ("i = 0\nwhile True:\n    i += 1\n    open(f'x{i}', 'w')", "file size"),
    "1 GB to stdout": ("while True: print('x' * 10**6)", "output"),
    "1 GB to stderr": ("import sys\nwhile True: sys.stderr.write('x' * 10**6)", "output"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_stopped_by_its_limit(sandbox: Sandbox, bomb: str) -> None:
    """And the verdict names it."""
    program, limit = BOMBS[bomb]
    if limit == "time":
        sandbox.limits = SHORT
    verdict = ran(sandbox, program)
    assert (verdict.kind, verdict.limit) == ("stopped", limit)
    assert verdict.detail
    sandbox.limits = LIMITS
    assert ran(sandbox, "x = 1", "assert x"), "the next one runs as if nothing had been"


@pytest.mark.parametrize(
    "program",
    [
        "done = libc.fork()",
        "done = libc.vfork()",
        "done = libc.socket(2, 1, 0)",
        "done = libc.open(b'/etc/passwd', 0)",
        "done = libc.kill(os.getppid(), 9)",
        "done = libc.open(b'/tmp/new', 0o101, 0o600)",
        "done = libc.syscall(101, 16, os.getppid(), 0, 0)",
        "done = libc.memfd_create(b'x', 0)",
        "done = libc.unshare(0x10000000)",
        "done = libc.execl(b'/bin/true', b'true', None)",
    ],
)
def test_the_kernel_refuses_what_goes_round_the_interpreter(sandbox: Sandbox, program: str) -> None:
    """System calls by ctypes: no process, no socket, no file, no signal, no memory of others."""
    verdict = ran(sandbox, f"{FIRST}{program}\n{TELL}")
    assert verdict.kind == "failed"
    assert verdict.detail.startswith("the program: ValueError: -1 ")
    assert "permitted" in verdict.detail or "denied" in verdict.detail


def test_processor_time_is_a_limit_of_its_own(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads may use up more of it than the clock shows."""
    monkeypatch.setattr(Limits, "cpu_s", 1)
    verdict = ran(sandbox, "while True: pass")
    assert str(verdict) == "stopped by its limit of cpu: more than 1 s of processor time"


def test_limits_cannot_be_lifted(sandbox: Sandbox) -> None:
    """Not even by root."""
    lift = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))"
    assert "not allowed to raise" in ran(sandbox, lift).detail
    bomb = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()"
    assert "can't start new thread" in ran(sandbox, bomb).detail


def test_what_is_outside_stays_as_it_is(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rights, owner, times and attributes of a file, which Landlock does not guard, and how its parent is run."""
    file, read = tmp_path / "outside", os.__file__
    file.write_text("own")
    file.chmod(0o600)
    before = file.stat()
    ways = [
        f"os.chmod({str(file)!r}.encode(), 0o777)",
        f"libc.chmod({bytes(file)!r}, 0o777)",
        f"libc.chown({bytes(file)!r}, 1, 1)",
        f"libc.utimes({bytes(file)!r}, None)",
        f"libc.truncate({bytes(file)!r}, 0)",
        f"libc.setxattr({bytes(file)!r}, b'user.x', b'1', 1, 0)",
        f"libc.link({bytes(file)!r}, b'linked')",
        f"os.fchmod(os.open({read!r}, 0), 0o777)",
        f"libc.ioctl(os.open({read!r}, 0), 0x40086602, 16)",
        "libc.fcntl(0, 8, os.getppid())",
        "libc.setpriority(0, os.getppid(), 19)",
        "libc.sched_setaffinity(os.getppid(), 8, b'1' + bytes(7))",
        "libc.prctl(1, 0)",
        "libc.syscall(452, -100, b'.', 0o777, 0)",
        "libc.mkdir(b'd', 0o700)",
    ]
    for way in ways:
        verdict = ran(sandbox, f"{FIRST}done = {way}\nassert done == -1, done\n{TELL}")
        assert verdict.kind != "passed", way
        refused = ("not permitted", "not implemented", "denied")
        assert verdict.limit == "files" or any(word in verdict.detail for word in refused), (way, verdict)
    assert file.stat() == before
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0


def test_a_secret_of_the_cell_is_out_of_reach(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key file, and what is in its environment."""
    key = tmp_path / "cluster.key"
    key.write_text("secret")
    monkeypatch.setenv("API_KEY", "secret")
    assert ran(sandbox, f"open({str(key)!r})").limit == "files"
    assert ran(sandbox, f"{FIRST}done = libc.open({bytes(key)!r}, 0)\n{TELL}").kind == "failed"
    assert ran(sandbox, "import os", "assert set(os.environ) <= {'TMPDIR'}, dict(os.environ)")


def test_what_programs_need_is_there(sandbox: Sandbox) -> None:
    """The standard library, threads, random numbers, and files of their own in an empty folder."""
    modules = "json re math random decimal collections itertools dataclasses heapq datetime statistics hashlib sqlite3"
    program = f"import {', '.join(modules.split())}, threading, tempfile, os, zoneinfo\nseen = []"
    tests = """
assert os.listdir('.') == []
worker = threading.Thread(target=lambda: seen.append(random.random()))
worker.start(); worker.join()
assert seen
with tempfile.NamedTemporaryFile('w+') as file:
    file.write('x')
open('own.txt', 'w').write('own')
assert open('own.txt').read() == 'own'
assert os.urandom(8)
"""
    verdict = ran(sandbox, program, tests)
    assert verdict, verdict


def test_runs_do_not_wait_for_each_other_and_are_ended_together(place: Path) -> None:
    """A sandbox that is closed ends what it runs, and runs nothing more."""
    sandbox = Sandbox(Limits(30.0, 128 << 20))
    verdicts: list[SandboxVerdict] = []
    threads = [
        threading.Thread(target=lambda: verdicts.append(sandbox.run("import time; time.sleep(25)"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    until(lambda: len(sandbox._running) == 2)
    began = time.monotonic()
    sandbox.close()
    for thread in threads:
        thread.join(timeout=30)
    assert time.monotonic() - began < 15
    assert not any(verdicts)
    with pytest.raises(RefusedError, match="closed"):
        sandbox.run("")
    assert not list(place.glob("aureon-sandbox-*"))


def test_its_end_waits_until_all_is_tidy(place: Path) -> None:
    """The threads of its runs may end with the process; and a second time there is nothing to do."""
    sandbox = Sandbox(Limits(30.0, 128 << 20))
    program = "import time; time.sleep(25)"
    threads = [threading.Thread(target=sandbox.run, args=(program,)) for _ in range(os.cpu_count() or 1)]
    for thread in threads:
        thread.start()
    until(lambda: len(sandbox._running) == len(threads))
    sandbox.close()
    assert not list(place.glob("aureon-sandbox-*"))
    sandbox.close()
    for thread in threads:
        thread.join(60)


@pytest.mark.parametrize("after_s", [0, 0.02, 0.3])
def test_a_run_ends_with_the_process_that_began_it(after_s: float, tmp_path: Path) -> None:
    """By kill -9, at whatever moment."""
    child = tmp_path / "child"
    code = f"""
import os, signal, time
from pathlib import Path
from connectors import sandbox
def wait(self):
    Path({str(child)!r}).write_text(str(self._process.pid))
    time.sleep({after_s})
    os.kill(os.getpid(), signal.SIGKILL)
sandbox._Watched.wait = wait
sandbox.Sandbox(sandbox.Limits(wall_s=1)).run("import time; time.sleep(60)")
"""
    variables = environment(TMPDIR=str(tmp_path))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, timeout=60, check=False)
    until(lambda: not _runs_a_sandbox(child.read_text()))


def test_where_the_kernel_cannot_protect_nothing_is_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, and what is missing is said."""
    child = place / "child.py"
    source = Path(__file__).parents[2].joinpath("connectors/sandbox_child.py").read_text()
    child.write_text(
        source.replace("_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444", "_CREATE_RULESET, _A, _R = 9999")
    )
    monkeypatch.setattr("connectors.sandbox.CHILD", child)
    with pytest.raises(RefusedError, match=r"untrusted code cannot be run here: .*Landlock \(Linux 5.13\) is needed"):
        Sandbox(LIMITS).run("open('ran', 'w')")


def test_a_report_that_the_program_forges_is_not_believed(sandbox: Sandbox) -> None:
    """It would have to know a number that it is not told."""
    forged = """
import json, os
for fd in range(3, 20):
    try:
        os.write(fd, json.dumps({'end': 'done', 'nonce': '0' * 32}).encode() + b'\\n')
    except OSError:
        pass
os._exit(0)
"""
    assert ran(sandbox, forged).kind == "failed"


@pytest.mark.parametrize(
    "code, line, said, limit",
    [
        (-signal.SIGXCPU, "", {}, "cpu"),
        (-signal.SIGKILL, "", {}, "cpu"),
        (-signal.SIGKILL, "", {"line": "done"}, ""),
        (-signal.SIGXFSZ, "", {}, "file size"),
        (1, "MemoryError", {}, "memory"),
        (1, "KeyError", {}, ""),
    ],
)
def test_a_run_that_cannot_say_so_is_told_by_how_it_ended(
    code: int, line: str, said: dict[str, str], limit: str
) -> None:
    """The kernel ends it by a signal of its own for each limit."""
    assert _by_signal(code, line, said) == limit
