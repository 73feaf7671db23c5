"""Keeps what a version of Aureon wrote: a whole home folder, with its broker, in the middle of its work.

    python -m tests.data.keep NAME                                     this version, as NAME.tar.xz in this folder
    python -m tests.data.keep NAME --aureon CLONE/.venv/bin/aureon     another one, from a clone where `make lint` ran

A cell has the nodes of `held_nodes.py`, which leave tasks open, and is killed with SIGKILL twice. The second of its
lives takes no snapshot, so that what it decided is on the log alone. Then the broker is stopped in order, which keeps
what it has. The keys in the folder are of that cluster alone, which lives in these files and nowhere else.
`tests/test_kept.py` goes on with all that is here.
"""

import argparse
import contextlib
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from flows.demo_tasks import demo_tasks

HERE = Path(__file__).parent
TASKS = "tasks.jsonl"
LATE = "late"
KINDS = {
    "plain": 14,
    "held": 6,
    "differing": 6,
    "failing": 4,
    "large": 1,
    "nowhere": 2,
    "spawning": 1,
    "cancelled": 1,
    LATE: 6,
}
"""How many tasks there are of each kind; those that are late are sent to the second life."""
LEFT_OUT = ("*.lock", "*.log", "*-shm", "said.txt", "*.conf")
"""Locks and what only people read: the next start makes them again."""
DATE = 1_764_547_200
"""Of all files, so that the same content makes the same archive."""


def tasks() -> Iterator[dict[str, Any]]:
    """All tasks, those of the demo under ids that say what becomes of them."""
    posed = demo_tasks(sum(KINDS.values()), seed=0)
    for kind, count in KINDS.items():
        for number in range(count):
            task = {**next(posed), "logical_id": f"{kind}-{number}"}
            if kind == "spawning":
                task = {
                    "topic": "math",
                    "logical_id": f"{kind}-{number}",
                    "payload": {"prompt": "Solve for m: 5*m = 35"},
                }
            if kind == "nowhere":
                task["topic"] = "nowhere"
            if kind == "large":
                task["payload"] = {**task["payload"], "note": "x" * 3000}
            yield task


class Version:
    """The `aureon` command of the version that is kept, in a folder that is its cluster's."""

    def __init__(self, aureon: str, folder: Path) -> None:
        self._aureon, self._folder = aureon, folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AUREON_")}
        self._environment = {
            **kept,
            "PYTHONPATH": str(HERE),
            "AUREON_HOME": "home",
            "AUREON_NODES": "held_nodes:nodes",
            "AUREON_RETRY_DELAY_S": "86400",
        }
        if self.has("run", "--blob-bytes"):
            self._environment["AUREON_BLOB_BYTES"] = "2000"

    def has(self, command: str, flag: str = "") -> bool:
        """Tell whether the version has a command, with a flag."""
        done = self.run(command, "--help", check=False)
        return done.returncode == 0 and flag in done.stdout

    def run(
        self, *arguments: str, stdin: str = "", check: bool = True, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        return subprocess.run(
            [self._aureon, *arguments],
            cwd=self._folder,
            env={**self._environment, **variables} if arguments[-1] != "--help" else None,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=check,
        )

    @contextlib.contextmanager
    def running(self, *arguments: str, end: signal.Signals, **variables: str) -> Iterator[None]:
        """Have a command run, and end it with a signal."""
        with (self._folder / "said.txt").open("ab") as said:
            process = subprocess.Popen(
                [self._aureon, *arguments],
                cwd=self._folder,
                env={**self._environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        try:
            yield
        finally:
            process.send_signal(end)
            process.wait(60)

    def decisions(self) -> list[dict[str, Any]]:
        """Read the log of decisions, all lanes of it."""
        port = json.loads((self._folder / "home" / "broker" / "broker.json").read_bytes())["port"]
        reader = Consumer(
            {"bootstrap.servers": f"127.0.0.1:{port}", "group.id": "keep", "auto.offset.reset": "earliest"}
        )
        found = []
        try:
            topic = reader.list_topics("tasks.results", timeout=10).topics["tasks.results"]
            reader.assign([TopicPartition("tasks.results", lane, 0) for lane in topic.partitions])
            while messages := reader.consume(1000, 1.0):
                found += [json.loads(m.value() or b"{}") for m in messages if m.error() is None]
        finally:
            reader.close()
        return found


def keep(version: Version, folder: Path) -> None:
    """Have a version do its work, and stop it in the middle."""
    all_tasks = list(tasks())
    (folder / "home").mkdir()
    (folder / "home" / TASKS).write_text("".join(json.dumps(task) + "\n" for task in all_tasks))
    early = "".join(json.dumps(task) + "\n" for task in all_tasks if not task["logical_id"].startswith(LATE))
    late = "".join(json.dumps(task) + "\n" for task in all_tasks if task["logical_id"].startswith(LATE))
    ended = sum(KINDS[kind] for kind in ("plain", "differing", "failing", "large", "nowhere")) + 3 * KINDS["spawning"]
    with contextlib.ExitStack() as beside:
        beside.enter_context(version.running("broker", end=signal.SIGTERM))
        wait_until((folder / "home" / "broker" / "broker.json").exists)
        wait_until(lambda: version.run("submit", "-", stdin=early, check=False).returncode == 0)
        if version.has("cancel"):
            version.run("cancel", all_tasks[-7]["topic"], "cancelled-0")
            ended += 1
        if version.has("supervise"):
            beside.enter_context(version.running("supervise", end=signal.SIGKILL))
        with version.running("run", end=signal.SIGKILL, AUREON_SNAPSHOT_S="1"):
            wait_until(lambda: settled(version, ended))
        with version.running("run", end=signal.SIGKILL, AUREON_SNAPSHOT_S="3600"):
            wait_until(lambda: any(d["kind"] == "started" for d in version.decisions()))
            version.run("submit", "-", stdin=late)
            wait_until(lambda: late_ones_ended(version))
    if version.has("replay"):
        version.run("replay", "re-decide", "--run", "kept", "--score-threshold", "0.97")
    if version.has("search"):
        version.run("search", "equation")


def settled(version: Version, ended: int) -> bool:
    """Tell whether the lake has all that can be decided in the first life; one more look finds nothing new."""
    count = rows(version)
    time.sleep(3)
    return count >= ended and rows(version) == count


def rows(version: Version) -> int:
    """How many decisions the lake has."""
    done = version.run("sql", "--json", "SELECT count(*) AS n FROM rounds", check=False)
    return int(json.loads(done.stdout)[0]["n"]) if done.returncode == 0 else 0


def late_ones_ended(version: Version) -> bool:
    """Tell whether the log has all decisions on the late tasks."""
    found = {d.get("logical_id") for d in version.decisions() if d["kind"] == "converged"}
    return {f"{LATE}-{n}" for n in range(KINDS[LATE])} <= found


def wait_until(condition: Callable[[], bool], limit_s: float = 300) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it does not come true.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s:g} s")
        time.sleep(0.2)


def pack(home: Path, archive: Path) -> None:
    """Put a folder into an archive, whose files are nobody's."""

    def as_kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if any(Path(info.name).match(pattern) for pattern in LEFT_OUT):
            return None
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = DATE
        return info

    with (
        lzma.open(archive, "wb", preset=9 | lzma.PRESET_EXTREME) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        tar.add(home, "home", filter=as_kept)


def main() -> None:
    """Keep one version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the archive: the version, or its commit")
    parser.add_argument("--aureon", default=str(Path(sys.executable).with_name("aureon")), help="its `aureon` command")
    options = parser.parse_args()
    archive = HERE / f"{options.name}.tar.xz"
    folder = Path(tempfile.mkdtemp(prefix="aureon-keep-"))
    try:
        keep(Version(str(Path(options.aureon).absolute()), folder), folder)
        pack(folder / "home", archive)
    except BaseException:
        sys.stderr.write((folder / "said.txt").read_text())
        raise
    finally:
        shutil.rmtree(folder)
    sys.stdout.write(f"{archive}: {archive.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
