"""The embedded broker: Kafka for development, demos and tests, in one binary and one folder.

It is `noida-db` (extra `embedded`), listening on 127.0.0.1 only.

- **Unit of parallelism:** one broker process a folder, whoever asks for it; two file locks see to that.
- **Guarantee:** it keeps its messages in memory and saves them when it is asked to stop (SIGTERM) and every few
  seconds. After its own kill -9 the last seconds are gone, so it is no place for what must not be lost. It also
  answers every fetch at once, and keeps 1.5 to 3 times the backlog in memory: right up to 100 MB.
- **Replay:** nothing; started again it goes on with the same messages, offsets and port.
"""

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import msgspec

from connectors.file_lock import LOOKS, try_lock
from connectors.kafka import answers
from connectors.whole_files import ANYBODY, replace
from schemas.errors import UNREADABLE, RefusedError, TryAgainError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_LIMIT_S = 20.0
STOP_LIMIT_S = 60.0
"""Saving 100 MB takes seconds; a broker that takes longer than this hangs, and only then is it killed."""
POLL_S = 0.02
LOG_TAIL_BYTES = 2000


class _Running(msgspec.Struct, frozen=True):
    """What the folder remembers of its broker, in `broker.json`."""

    port: int
    pid: int


class EmbeddedBroker:
    """The broker of one folder.

    As a context manager it belongs to this process, and is stopped with it. A broker whose owner died is adopted; one
    whose owner lives is used and left running.

    >>> with EmbeddedBroker(Path(".aureon/broker")) as broker:  # doctest: +SKIP
    ...     print(broker.brokers)
    127.0.0.1:40123
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._owner_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        """Where the broker's own output goes."""
        return self.folder / "broker.log"

    @property
    def brokers(self) -> str:
        """The address, as clients want it.

        Raises:
            RefusedError: the folder never had a broker.
        """
        running = self._remembered()
        if running is None:
            raise RefusedError(f"{self.folder}: no broker was ever started here; start one with `aureon broker`")
        return f"{HOST}:{running.port}"

    @property
    def owned(self) -> bool:
        """Tell whether the broker belongs to this object, so that `stop` ends it."""
        return self._owner_lock is not None

    def start(self) -> str:
        """Start the broker of this folder, or find the one that runs already.

        Returns:
            Its address.

        Raises:
            RefusedError: the package is missing, or the broker ends at once; its last words are in the message.
            TryAgainError: it runs and does not answer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._owner_lock is None:
            self._owner_lock = _try_lock(self.folder / "owner.lock")
        try:
            if self._owner_lock is not None:
                self._start_or_adopt()
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise
        return self.brokers

    def stop(self) -> None:
        """Stop the broker if it belongs to this object, and wait until its data is saved."""
        if self._owner_lock is None:
            return
        try:
            self._end_process()
        finally:
            self._disown()

    def is_running(self) -> bool:
        """Tell whether this folder has a living broker process, whoever owns it."""
        return _is_locked(self.folder / "broker.lock")

    def is_served(self) -> bool:
        """Tell whether the broker answers, and belongs to a living process: whoever starts it now uses that one."""
        running = self._remembered()
        if running is None or not (_is_locked(self.folder / "owner.lock") and self.is_running()):
            return False
        return _listens(running.port) and answers(f"{HOST}:{running.port}", timeout_s=5.0)

    def serve(self, on_ready: Callable[[str], None]) -> None:
        """Run the broker in the foreground, until SIGINT or SIGTERM.

        Args:
            on_ready: called once with the address.

        Raises:
            RefusedError: another process owns it already, or the broker ended by itself.
        """
        stop_asked = False

        def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
            nonlocal stop_asked
            stop_asked = True

        # before it is started: a signal that came in between would leave it without an owner
        before = {s: signal.signal(s, ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            address = self.start()
            if not self.owned:
                raise RefusedError(f"{self.folder}: its broker already runs at {address}, started by another process")
            on_ready(address)
            while not stop_asked:
                if not self.is_running():
                    raise RefusedError(f"the broker ended by itself; its last words:\n{self._last_words()}")
                time.sleep(0.1)
        finally:
            self.stop()
            for signal_number, handler in before.items():
                signal.signal(signal_number, handler)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _start_or_adopt(self) -> None:
        broker_lock = _try_lock(self.folder / "broker.lock")
        if broker_lock is None:
            log.info("%s: adopting the broker whose owner is gone", self.folder)
            return
        try:
            self._process = self._spawn(embedded_binary(), broker_lock)
        finally:
            # The broker holds the lock from here on, and lets go of it when it ends, however it ends.
            os.close(broker_lock)

    def _spawn(self, binary: Path, broker_lock: int) -> subprocess.Popen[bytes]:
        port = self._free_port()
        command = [str(binary), "start", "--only", "kafka", "--kafka-port", str(port), "--host", HOST, "--data-dir"]
        # the port is known before there is a process: whoever is killed in between leaves one that can be found
        self._remember(_Running(port=port, pid=0))
        with self.log_path.open("ab") as output:
            try:
                process = subprocess.Popen(
                    [*command, str(self.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # Ctrl-C on the terminal must reach the job, and the broker only when the job has stopped.
                    start_new_session=True,
                    pass_fds=[broker_lock],
                )
            except OSError as error:
                raise RefusedError(
                    f"{binary} does not run on this machine ({error}); set AUREON_BROKERS to the address of a Kafka"
                ) from None
        self._remember(_Running(port=port, pid=process.pid))
        return process

    def _free_port(self) -> int:
        """Take the folder's port of last time, so that its clients find it again, or any other that is free."""
        remembered = self._remembered()
        for port in ([remembered.port] if remembered else []) + [0]:
            with socket.socket() as probe:
                # As the broker does: a port with closed connections in TIME_WAIT is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError:
                    log.warning("%s: another program has port %d of last time, choosing a new one", self.folder, port)
                    continue
                number: int = probe.getsockname()[1]
                return number
        raise RefusedError(f"no free port on {HOST}")

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            running = self._remembered()
            ended = self._process is not None and self._process.poll() is not None
            if ended or (self.owned and not self.is_running()):
                raise RefusedError(f"the broker in {self.folder} ended at once; its last words:\n{self._last_words()}")
            # A port that nobody listens on yet is refused in no time, where a Kafka client would wait and retry.
            if running is not None and _listens(running.port) and answers(f"{HOST}:{running.port}", timeout_s=5.0):
                return
            time.sleep(POLL_S)
        raise TryAgainError(
            f"the broker in {self.folder} did not answer within {START_LIMIT_S:.0f} s; see {self.log_path}"
        )

    def _end_process(self) -> None:
        running = self._remembered()
        if running is None or not self.is_running():
            self._collect()
            return
        self._close_connections()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if number is signal.SIGKILL:
                log.error("the broker in %s does not stop, killing it: its last seconds may be lost", self.folder)
            self._signal(running.pid, number)
            deadline = time.monotonic() + STOP_LIMIT_S
            while time.monotonic() < deadline:
                if not self.is_running():
                    self._collect()
                    return
                self._reap()
                time.sleep(POLL_S)
        log.error("the broker in %s does not end: `fuser %s/broker.lock` tells its process", self.folder, self.folder)

    def _close_connections(self) -> None:
        """Have it let go of its clients before it saves: what it acknowledges while it does so is lost."""
        command = [str(embedded_binary()), "stop", "kafka", "--data-dir", str(self.folder)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=STOP_LIMIT_S)
        except (OSError, subprocess.SubprocessError, RefusedError) as error:
            log.warning("the broker in %s does not let go of its clients: %s", self.folder, error)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        # A pid may be somebody else's by now, if the machine was restarted or the folder was copied; and none is known
        # where whoever started the broker was killed over it.
        processes = Path("/proc")
        told = [processes / str(pid)]
        if not _is_broker(told[0], b""):
            told = [process for process in processes.glob("[0-9]*") if _is_broker(process, os.fsencode(self.folder))]
        for process in told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), number)

    def _collect(self) -> None:
        """Wait for a child that has let go of its lock and has not quite ended."""
        if self._process is not None:
            self._process.wait(STOP_LIMIT_S)
            self._process = None

    def _reap(self) -> None:
        """Collect a child that has ended, which holds its lock until then; an adopted broker is nobody's child."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None

    def _disown(self) -> None:
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None

    def _remember(self, running: _Running) -> None:
        replace(self.folder / "broker.json", msgspec.json.encode(running), ANYBODY)

    def _remembered(self) -> _Running | None:
        try:
            return msgspec.json.decode((self.folder / "broker.json").read_bytes(), type=_Running)
        except (FileNotFoundError, *UNREADABLE):
            return None

    def _last_words(self) -> str:
        return self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()


def embedded_binary() -> Path:
    """Find the broker's binary. The script of the same name wraps it, and would swallow our signals.

    Raises:
        RefusedError: the package is not installed; the message gives the cure.
    """
    package = importlib.util.find_spec("noida_db")
    binary = Path(package.origin).with_name("noida-db") if package is not None and package.origin else None
    if binary is None or not binary.is_file():
        raise RefusedError(
            "the embedded broker is not installed: `pip install 'aureon[embedded]'`, "
            "or set AUREON_BROKERS to the address of a Kafka"
        )
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    return binary


def _try_lock(path: Path) -> int | None:
    """Take a file lock that lasts as long as the descriptor is open anywhere; None if somebody has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if try_lock(descriptor, tries=LOOKS):
        return descriptor
    os.close(descriptor)
    return None


def _is_locked(path: Path) -> bool:
    """Tell whether somebody holds a lock."""
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDWR)
    try:
        return not try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _is_broker(process: Path, data_folder: bytes) -> bool:
    """Tell whether a process is a broker with a data folder; with any one, if that is empty."""
    try:
        command = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(part.endswith(b"noida-db") for part in command) and (not data_folder or data_folder in command)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0
