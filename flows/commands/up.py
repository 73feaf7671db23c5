"""`aureon up`: a cluster on this machine, under supervisord.

    aureon up ─► supervisord ─┬─► aureon broker       where no other broker is named
                              ├─► aureon supervise    the supervision root
                              └─► aureon run, n times

supervisord starts the programs, starts those again that die, stops them in order and keeps their logs. This process
writes its configuration, tells what happens in words of its own, and says when to give up. The kernel ends each of them
when the one before it in the picture has ended: killed by kill -9, `aureon up` leaves a supervisord that stops the
programs in order; killed itself, supervisord leaves nothing.
"""

import argparse
import configparser
import contextlib
import io
import math
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

from msgspec import Struct
from supervisor.xmlrpc import SupervisorTransport

from connectors.embedded import STOP_LIMIT_S, EmbeddedBroker
from connectors.file_lock import try_lock
from connectors.processes import bound, read_pid, write_pid
from connectors.whole_files import replace
from flows.commands.arguments import flags_of, settings_of
from flows.settings import CELLS, PREFIX, Settings
from flows.terminal import INTERRUPTED, OK, REFUSED, say, say_in_handler
from schemas.errors import AureonError, RefusedError

BROKER: Final = "broker"
ROOT: Final = "root"
LOCK: Final = "up.lock"
CONFIGURATION: Final = "supervisord.conf"
SOCKET: Final = "supervisord.sock"
SUPERVISOR_LOG: Final = "supervisord.log"

UP_AFTER_S = 30
"""A program that lived for so long has started. That takes two seconds, but more than ten on a machine that is busy."""
TRIES_AGAIN = 3
"""How often in a row a program is started again that ends before that, after pauses of 1, 2, 3 s."""
COMMIT_S = 20.0
"""What a graceful stop takes beside the calls in flight."""
MAX_SOCKET_BYTES = 107 - len(".4194304")
"""Linux's limit; supervisord makes its socket under a name with its process id at the end."""
POLL_S = 0.1
LAST_WORDS_BYTES = 4096

_OF_ONE_CELL = (f"{PREFIX}STATE", f"{PREFIX}CELL")
"""Variables of which each cell gets a value of its own."""
_HERE = "%(here)s"
"""supervisord's name for the folder of its configuration, which is the home."""


class Program(Struct, frozen=True, kw_only=True):
    """One program of the cluster."""

    kind: str
    """Programs of one kind start and stop together: kinds start in the order of the list, and stop in the reverse."""
    number: int | None = None
    """Which one of its kind it is."""
    arguments: tuple[str, ...]
    """Of the command `aureon`."""
    stop_s: float
    """How long it may take to stop; then it is killed."""
    on_orphaned: signal.Signals = signal.SIGKILL
    """What it gets when supervisord has ended. A graceful stop needs the broker, which may be ending, too; a cell that
    is killed loses nothing but its calls in flight."""
    may_end: bool = False
    """Whether it is done when it ends with 0; any other is started again however it ends."""
    awaits_broker: bool = True
    """Whether it starts when the embedded broker answers, where that is in the list, and not at once."""

    @property
    def name(self) -> str:
        """What supervisord calls it."""
        return self.kind if self.number is None else f"{self.kind}-{self.number}"

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name.replace("-", " ")

    @property
    def log(self) -> str:
        """The name of its log."""
        return f"{self.kind if self.number is None else self.number}.log"


def main(options: argparse.Namespace) -> int:
    """Run the cluster until it is asked to stop, or its cells have nothing left to do."""
    settings = settings_of(options)
    home = Path(settings.home)
    programs = cluster(options, settings)
    with alone(home) as lock:
        write_configuration(home, programs)
        broker = None if settings.brokers else EmbeddedBroker(settings.broker_dir)
        on = f"the broker {settings.brokers}" if settings.brokers else "the embedded broker"
        say(f"aureon: {options.cells} cells and a root on {on}, logs in {home / CELLS}. Ctrl-C stops them all.")
        Supervised(home, programs, broker).run(lock, environment(options, settings))
    say("stopped; start it again and it goes on where it stood")
    return OK


def cluster(options: argparse.Namespace, settings: Settings) -> list[Program]:
    """List the programs, in the order in which they start."""
    broker = Program(
        kind=BROKER,
        arguments=("broker",),
        stop_s=STOP_LIMIT_S + COMMIT_S,
        on_orphaned=signal.SIGTERM,  # it forgets its last seconds when it is killed
        awaits_broker=False,
    )
    return [
        *([] if settings.brokers else [broker]),
        Program(
            kind=ROOT, arguments=("supervise", "--state", f"{_HERE}/{ROOT}", *_metrics(0, settings)), stop_s=COMMIT_S
        ),
        *(_cell(number, options, settings) for number in range(1, options.cells + 1)),
    ]


def _cell(number: int, options: argparse.Namespace, settings: Settings) -> Program:
    arguments = ["run", "--state", f"{_HERE}/{CELLS}/{number}", *_metrics(number, settings)]
    if not settings.brokers:  # elsewhere the group hands the lanes out, also to cells of other machines
        arguments += ["--cell", f"{number}/{options.cells}"]
    if options.until_idle is not None:
        arguments += ["--until-idle", str(options.until_idle)]
    if options.log_level is not None:
        arguments += ["--log-level", options.log_level]
    if options.verbose:
        arguments += ["--verbose"]
    return Program(
        kind="cell",
        number=number,
        arguments=tuple(arguments),
        stop_s=settings.drain_s + COMMIT_S,
        may_end=True,
    )


def _metrics(number: int, settings: Settings) -> list[str]:
    """A port for each: the root has that of the settings, and the cells those that follow."""
    if settings.metrics_address is None:
        return []
    host, port = settings.metrics_address
    host = f"[{host}]" if ":" in host else host
    return ["--metrics", f"{host}:{port + number if port else 0}"]


def environment(options: argparse.Namespace, settings: Settings) -> dict[str, str]:
    """That of all programs: each flag is a variable, so that no password is in a file or in the list of processes.

    Args:
        options: the command's arguments.
        settings: what they come to.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _OF_ONE_CELL}
    flags = {PREFIX + name.upper(): value for name, value in flags_of(options).items() if value is not None}
    return {**kept, **flags, f"{PREFIX}HOME": settings.home}


@contextlib.contextmanager
def alone(home: Path) -> Iterator[int]:
    """Hold the lock of a home, and hand it out; with supervisord it lasts as long as that does.

    Raises:
        RefusedError: another process holds it; names that process.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("a+b") as file:
        waits = False
        while not try_lock(file.fileno()):
            pid = read_pid(file)
            if pid and Path(f"/proc/{pid}").exists():
                raise RefusedError(
                    f"{home} has an `aureon up` already, process {pid}: stop that one, or choose another --home"
                )
            if not waits:
                say(f"waiting until all has stopped that process {pid}, which was killed, has left")
            waits = True
            time.sleep(POLL_S)
        write_pid(file)
        yield file.fileno()
        file.truncate(0)


# -- supervisord's configuration -----------------------------------------------------------------------------------


def write_configuration(home: Path, programs: list[Program]) -> None:
    """Write supervisord's configuration into the home.

    Raises:
        RefusedError: the home's path is too long for a socket in it.
    """
    socket = str((home / SOCKET).absolute())
    if len(os.fsencode(socket)) > MAX_SOCKET_BYTES:
        raise RefusedError(
            f"{socket}: a socket's path may have {MAX_SOCKET_BYTES} bytes at most; choose a --home with a shorter one"
        )
    (home / CELLS).mkdir(exist_ok=True)
    replace(home / CONFIGURATION, configuration(programs).encode())


def configuration(programs: list[Program]) -> str:
    """Tell supervisord what to run; `supervisorctl -c <home>/supervisord.conf` reads it, too."""
    logs = f"{_HERE}/{CELLS}"
    has_broker = any(program.kind == BROKER for program in programs)
    sections: dict[str, dict[str, object]] = {
        "unix_http_server": {"file": f"{_HERE}/{SOCKET}", "chmod": "0700"},
        "supervisorctl": {"serverurl": f"unix://{_HERE}/{SOCKET}"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        "supervisord": {
            "nodaemon": "true",
            "childlogdir": logs,
            "nocleanup": "true",
            "pidfile": f"{logs}/supervisord.pid",
            **_kept_log("logfile", f"{logs}/{SUPERVISOR_LOG}"),
        },
    }
    for program in programs:
        aureon = [sys.executable, "-P", "-m", "flows.cli", *program.arguments]
        sections[f"program:{program.name}"] = {
            "command": " ".join(map(_quoted, bound(program.on_orphaned, aureon))),
            "autostart": str(not (has_broker and program.awaits_broker)).lower(),
            "autorestart": "unexpected" if program.may_end else "true",
            "exitcodes": OK,
            "startsecs": UP_AFTER_S,
            "startretries": TRIES_AGAIN,
            "stopwaitsecs": math.ceil(program.stop_s),
            "killasgroup": "true",
            "redirect_stderr": "true",
            **_kept_log("stdout_logfile", f"{logs}/{program.log}"),
        }
    for place, kind in enumerate(dict.fromkeys(program.kind for program in programs)):
        members = ",".join(program.name for program in programs if program.kind == kind)
        sections[f"group:{kind}"] = {"programs": members, "priority": place}
    parser = configparser.RawConfigParser()
    parser.read_dict(sections)
    written = io.StringIO()
    parser.write(written)
    return f"; written by `aureon up`, each time anew\n\n{written.getvalue()}"


def _kept_log(key: str, path: str) -> dict[str, object]:
    return {key: path, f"{key}_maxbytes": "10MB", f"{key}_backups": 3}


def _quoted(word: str) -> str:
    return f'"{word}"' if word.startswith(_HERE) else shlex.quote(word).replace("%", "%%")


# -- while it runs -------------------------------------------------------------------------------------------------


class _Watched:
    """What is known of one program."""

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        self.pid: int | None = None
        self.starts = 0
        self.ended = ""
        """How it ended last: an exit code or a signal."""
        self.refusal = ""
        """What it said if it was refused when it ended last. The same twice in a row is no coincidence: it gives up."""

    @property
    def is_done(self) -> bool:
        """Tell whether it has nothing left to do."""
        return self.program.may_end and self.ended == str(OK)


class Supervised:
    """supervisord with its programs, from start to end.

    Args:
        home: where its configuration is.
        programs: what is in that.
        broker: what has to answer before the other programs start; None if there is nothing to wait for.
    """

    def __init__(self, home: Path, programs: list[Program], broker: EmbeddedBroker | None) -> None:
        self._home = home
        self._programs = {p.name: _Watched(p, home / CELLS / p.log) for p in programs}
        self._awaited = broker
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stopping = False
        self._failure: AureonError | None = None

    def run(self, lock: int, variables: Mapping[str, str]) -> None:
        """Start it, tell what happens, and wait for its end.

        Args:
            lock: a descriptor that it keeps open.
            variables: its environment.

        Raises:
            AureonError: a program cannot be kept alive; refused, if that one was.
        """
        command = [sys.executable, "-P", "-m", "supervisor.supervisord", "--configuration"]
        with (self._home / CELLS / SUPERVISOR_LOG).open("ab") as log:
            self._process = subprocess.Popen(
                bound(signal.SIGTERM, [*command, str(self._home / CONFIGURATION)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,  # and no pipe: it stops in order also when nobody reads any more
                env=variables,
                pass_fds=[lock],
                # Ctrl-C on the terminal is for this process alone.
                start_new_session=True,
            )
        before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            threading.Thread(target=self._read, name="aureon-supervisord", daemon=True).start()
            self._tell()
            code = self._process.wait()
        finally:
            self._process.terminate()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._failure is not None:
            raise self._failure
        if code and not self._stopping:
            raise AureonError(f"supervisord ended by itself ({code}); its log is {log.name}")

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line.decode(errors="replace"))
        self._lines.put(None)

    def _tell(self) -> None:
        while True:
            try:
                line = self._lines.get(timeout=POLL_S if self._awaited else None)
            except queue.Empty:
                self._start_others()
                continue
            if line is None:
                return
            for pattern, on_event in _EVENTS.items():
                if found := re.search(pattern, line):
                    name, *more = found.groups()
                    on_event(self, self._programs[name], *more)

    def _start_others(self) -> None:
        """Start what waits for the broker, when that answers."""
        if self._stopping or self._awaited is None or not self._awaited.is_served():
            return
        self._awaited = None
        transport = SupervisorTransport(None, None, f"unix://{(self._home / SOCKET).absolute()}")
        server: Any = xmlrpc.client.ServerProxy("http://127.0.0.1", transport)  # a form: what counts is the socket
        waiting = (w.program.kind for w in self._programs.values() if w.program.awaits_broker)
        with contextlib.suppress(xmlrpc.client.Error, OSError):  # it is ending, which is told when it has
            for kind in dict.fromkeys(waiting):
                server.supervisor.startProcessGroup(kind, False)  # and do not wait until they have started

    # -- events, as supervisord's log has them ---------------------------------------------------------------------

    def _on_start(self, watched: _Watched, pid: str) -> None:
        watched.pid = int(pid)
        watched.starts += 1
        again = " again" if watched.starts > 1 else ""
        say(f"{watched.program.title} started{again}, process {pid}; its log is {watched.log}")

    def _on_exit(self, watched: _Watched, ended: str) -> None:
        watched.pid, watched.ended = None, ended
        before, watched.refusal = watched.refusal, _last_words(watched.log) if ended == str(REFUSED) else ""
        if watched.refusal and watched.refusal == before:
            self._on_gave_up(watched)
        elif watched.refusal:
            say(f"{watched.program.title} was refused: {watched.refusal}")
        elif watched.is_done:
            say(f"{watched.program.title} has ended")
        else:
            say(f"{watched.program.title} died: {_told(ended)}; its log is {watched.log}")
        if all(w.is_done for w in self._programs.values() if w.program.may_end):
            self._stop()

    def _on_gave_up(self, watched: _Watched) -> None:
        if watched.is_done or self._stopping:
            return
        title = watched.program.title
        if watched.ended == str(REFUSED):
            self._failure = RefusedError(f"{title} is refused again and again: {watched.refusal}")
        else:
            how = _told(watched.ended) if watched.ended else "it cannot be started"
            self._failure = AureonError(f"{title} cannot be kept alive: {how}; its log is {watched.log}")
        say(f"giving up on {title}, and stopping")
        self._stop()

    def _on_stop(self, watched: _Watched, ended: str) -> None:
        watched.pid = None
        as_asked = ended in (str(OK), str(INTERRUPTED), "SIGTERM")  # the latter two while it was still starting
        say(f"{watched.program.title} stopped" + ("" if as_asked else f": {_told(ended)}"))

    def _on_kill(self, watched: _Watched) -> None:
        limit = watched.program.stop_s
        say(f"{watched.program.title} did not stop within {limit:g} s and is killed; its log is {watched.log}")

    # -- the end ---------------------------------------------------------------------------------------------------

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping:
            for watched in self._programs.values():
                if watched.pid is not None and watched.program.may_end:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(watched.pid, signal.SIGTERM)
            return
        self._stop()
        say_in_handler("stopping: cells wait for their calls in flight; again to stop without waiting")

    def _stop(self) -> None:
        self._stopping = True
        self._process.terminate()


_EVENTS: Mapping[str, Callable[..., None]] = {
    r"INFO spawned: '([\w-]+)' with pid (\d+)": Supervised._on_start,
    r" exited: ([\w-]+) \((?:exit status|terminated by) (\w+)": Supervised._on_exit,
    r"INFO gave up: ([\w-]+) entered FATAL state": Supervised._on_gave_up,
    r" stopped: ([\w-]+) \((?:exit status|terminated by) (\w+)": Supervised._on_stop,
    r"WARN killing '([\w-]+)' \(\d+\) with SIGKILL": Supervised._on_kill,
}
"""Lines of supervisord's log, which alone tells how a program ended."""


def _told(ended: str) -> str:
    return f"exit code {ended}" if ended.isdigit() else f"killed by {ended}"


def _last_words(log: Path) -> str:
    """What a program said last, without the name that `aureon` puts before it."""
    lines = log.read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace").split("aureon: ")
    return lines[-1].strip()
