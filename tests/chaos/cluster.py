"""A cluster of processes: a broker, three cells, a root, a model server; whoever dies is started again, as an
orchestrator would do.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from connectors.heartbeats import latest_states
from connectors.kafka import ASK_LIMIT_S, admin_client, client_config
from connectors.topics import RESULTS, ensure_topics
from schemas.errors import TryAgainError
from tests.apache_kafka import ApacheKafka, free_ports
from tests.brokers import Broker, Embedded
from tests.chaos.cells import ROOT
from tests.chaos.models import Orders
from tests.chaos.nodes import URL

CELLS = 3
LANES = 6
AGAIN_AFTER_S = 0.2
"""So long an orchestrator waits before it starts a process again."""
NAMESPACE = "aureon-chaos"
DISK_BYTES = 256 << 20
HEARD_WITHIN_S = 6.0


class Process:
    """One process in all its lives.

    Args:
        name: of its log.
        command: what is run.
        environment: in which.
        log: where its output goes.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._log = log.open("ab")
        self._running: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._died_at: float | None = None
        self._again_at = 0.0
        """Not before."""
        self._lock = threading.Lock()

    def start(self) -> None:
        """Have it run from now on."""
        with self._lock:
            self._wanted = True
            self._begin()

    def _begin(self) -> None:
        self._died_at = None
        self._running = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )

    @property
    def pid(self) -> int | None:
        """Of its present life."""
        running = self._running
        return None if running is None or running.returncode is not None else running.pid

    def look(self) -> None:
        """Start it again if it died a while ago."""
        with self._lock:
            if not self._wanted or self._running is None or self._running.poll() is None:
                return
            now = time.monotonic()
            if self._died_at is None:
                self._log.write(f"-- ended with {self._running.returncode} --\n".encode())
                self._log.flush()
                self._died_at = now
            if now >= max(self._died_at + AGAIN_AFTER_S, self._again_at):
                self._begin()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        with self._lock:
            if self._running is not None and self._running.poll() is None:
                self._running.send_signal(number)

    def kill(self, away_s: float = 0.0) -> None:
        """End it at once; it is started again, after a while at least."""
        with self._lock:
            self._again_at = time.monotonic() + away_s
        self.signal(signal.SIGKILL)

    def stop(self, limit_s: float = 120.0) -> int | None:
        """End it in order, for good; says with what it ended."""
        with self._lock:
            self._wanted = False
            running = self._running
        if running is None:
            return None
        running.send_signal(signal.SIGCONT)
        running.send_signal(signal.SIGTERM)
        try:
            return running.wait(limit_s)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGABRT)  # which `faulthandler` answers with the stacks of all threads
            return running.wait()
        finally:
            self._log.close()


class Cluster:
    """All of it.

    Args:
        home: where everything is.
        kind: of the broker, `apache` or `embedded`.
        rights: root's: for a namespace and a disk of their own.
    """

    def __init__(self, home: Path, kind: str, *, rights: bool) -> None:
        self.home = home
        self.rights = rights
        home.mkdir(parents=True, exist_ok=True)
        self.broker: Broker = ApacheKafka(home / "broker") if kind == "apache" else Embedded(home / "broker")
        self.kind = kind
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._run, daemon=True)
        self._undo = contextlib.ExitStack()
        self.clock = home / "clock.txt"
        self.clock.write_text("+0\n")
        self._models_orders = home / "orders.json"
        self.order(Orders())

    def order(self, orders: Orders) -> None:
        """Tell the models what to do."""
        draft = self._models_orders.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(orders))
        draft.replace(self._models_orders)

    @property
    def answered(self) -> Path:
        """Where answered calls are noted."""
        return self.home / "answered.txt"

    @property
    def lake(self) -> Path:
        """Of all cells."""
        return self.home / "lake"

    def start(self, cells: int = CELLS) -> None:
        """Begin, with so many of the cells."""
        self.broker.start()
        self._undo.callback(self.broker.stop)
        ensure_topics(client_config(self.broker.brokers), LANES)
        if self.kind == "apache":
            _note_when_decisions_arrive(self.broker.brokers)
        (models_port,) = free_ports(1)
        broker_port = int(self.broker.brokers.rpartition(":")[2])
        python = [sys.executable, "-m"]
        environment = self._environment(models_port)
        serve = [*python, "tests.chaos.models", "--port", str(models_port)]
        serve += ["--orders", str(self._models_orders), "--answered", str(self.answered)]
        self.models = self._process("models", serve, environment)
        self.root = self._process(
            "root", [*python, "flows.cli", "supervise", "--state", str(self.home / "root")], environment
        )
        enter: list[str] = []
        if self.rights:
            enter = self._namespace([broker_port, models_port], environment)
            self._disk(self.home / "state-1")
        self.cells = []
        for number in range(1, CELLS + 1):
            own = {**environment, "AUREON_STATE": str(self.home / f"state-{number}")}
            if self.kind == "embedded":
                own["AUREON_CELL"] = f"{number}/{CELLS}"
            if number == 2:
                own |= self._clock()
            cell = [*(enter if number == CELLS else []), *python, "flows.cli", "run"]
            self.cells.append(self._process(f"cell-{number}", cell, own))
        for process in (self.models, self.root, *self.cells[:cells]):
            process.start()
        self._watch.start()

    def stop(self) -> list[int | None]:
        """End everything; says with what the cells ended."""
        self._over.set()
        if self._watch.is_alive():
            self._watch.join()
        codes = [cell.stop() for cell in self.cells]
        for process in (self.root, self.models):
            process.stop()
        self._undo.close()
        return codes

    def lanes_of(self, cell: Process) -> tuple[int, ...]:
        """Which lanes a cell has, as it said last; without an answer none."""
        try:
            name = (self.home / f"state-{self.cells.index(cell) + 1}" / "cell.name").read_text().strip()
            cells, _ = latest_states(client_config(self.broker.brokers), time.time() - HEARD_WITHIN_S)
        except (FileNotFoundError, TryAgainError):  # it starts, or the broker does not answer
            return ()
        return next((state.lanes for state in cells if state.cell == name), ())

    def alive(self) -> dict[str, tuple[int, Path]]:
        """The cells and the root that run, by name: process id, and state folder."""
        folders = {f"cell {n}": (c, self.home / f"state-{n}") for n, c in enumerate(self.cells, 1)}
        every = {**folders, "root": (self.root, self.home / "root")}
        return {name: (pid, folder) for name, (process, folder) in every.items() if (pid := process.pid) is not None}

    def log(self, name: str) -> str:
        """The last lines of a process."""
        return (self.home / f"{name}.log").read_text(errors="replace")[-4000:]

    def fill_disk(self) -> None:
        """Leave the first cell's state folder no room."""
        with (self.home / "state-1" / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * (1 << 16))

    def free_disk(self) -> None:
        """Give it room again."""
        (self.home / "state-1" / "ballast").unlink(missing_ok=True)

    def cut(self, *, off: bool) -> None:
        """Cut the last cell off, or let it back."""
        self.tunnel.signal(signal.SIGSTOP if off else signal.SIGCONT)

    # -- what is needed --------------------------------------------------------------------------------------------

    def _environment(self, models_port: int) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AUREON_")}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "1",
            "AUREON_HOME": str(self.home),
            "AUREON_BROKERS": self.broker.brokers,
            "AUREON_NODES": "tests.chaos.nodes:nodes_of_models",
            "AUREON_GATE": "off",
            "AUREON_RETRY_DELAY_S": "1",
            "AUREON_MAX_ATTEMPTS": "100",
            "AUREON_CALL_TRIES": "2",
            URL: f"http://127.0.0.1:{models_port}/v1",
        }

    def _process(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Process:
        return Process(name, command, environment, self.home / f"{name}.log")

    def _clock(self) -> dict[str, str]:
        """Have a process ask a file how far its clock is off; what measures durations stays as it is."""
        import libfaketime  # type: ignore[import-untyped]  # noqa: PLC0415 - only here

        library = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_NO_CACHE": "1",  # whose age would be told by the false clock
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # it makes every change of the interpreter's threads take long
        }

    def _namespace(self, ports: list[int], environment: Mapping[str, str]) -> list[str]:
        """Make a network namespace with a tunnel; returns what runs a command in it."""
        name = f"{NAMESPACE}-{os.getpid()}"
        _run("ip", "netns", "add", name)
        self._undo.callback(_run, "ip", "netns", "del", name)
        enter = ["ip", "netns", "exec", name]
        _run(*enter, "ip", "link", "set", "lo", "up")
        folder = self.home / "tunnel"
        folder.mkdir()
        numbers = [str(port) for port in ports]
        tunnel = [sys.executable, "-m", "tests.chaos.tunnel"]
        outer = self._process("tunnel-outside", [*tunnel, "outside", str(folder), *numbers], environment)
        self.tunnel = self._process("tunnel", [*enter, *tunnel, "inside", str(folder), *numbers], environment)
        for end in (outer, self.tunnel):
            end.start()
            self._undo.callback(end.stop, 1.0)
        return enter

    def _disk(self, folder: Path) -> None:
        folder.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder))
        self._undo.callback(_run, "umount", "-l", str(folder))

    def _run(self) -> None:
        while not self._over.wait(0.1):
            for process in (self.models, self.root, *self.cells):
                process.look()


def _note_when_decisions_arrive(brokers: str) -> None:
    """Have the broker say when it appended a decision: its clock is right, and no reader's delay is in it."""
    entry = ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, RESULTS, incremental_configs=[entry])
    client = admin_client(client_config(brokers))  # which has to live until the answer is there
    client.incremental_alter_configs([resource])[resource].result(ASK_LIMIT_S)


def has_rights() -> bool:
    """Whether this process may make a namespace and mount a disk."""
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("ip", "mount", "unshare")):
        return False
    # root of a container may have neither
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], check=False, capture_output=True)  # noqa: S607
    return tried.returncode == 0


def _run(*command: Any) -> None:
    subprocess.run(command, check=True, capture_output=True)
