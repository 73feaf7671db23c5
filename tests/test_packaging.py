"""The wheel and the sdist: all that has to be in them is, and what is installed works where there is no source.

The wheel goes into an empty virtual environment, by pip. What it depends on is that of this one, which `make` has
installed from the lock with hashes: a path file leads there, so the test needs no network and takes no minutes, and the
versions are the pinned ones. Such a path leads to modules, and not to the project itself, whose own place here is told
by a path file too, and those are not followed.
"""

import email.parser
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.aureon_command import ROOT, until

PACKAGES = ("flows", "connectors", "schemas", "one_lake")
TASKS = 28
"""Two of each family."""

pytestmark = pytest.mark.slow


class Built(NamedTuple):
    """What was built."""

    wheel: Path
    """From the source tree."""
    sdist: Path
    of_sdist: Path
    """The wheel from the sdist."""


def tracked(*folders: str) -> list[str]:
    """The files of the project that git knows, below some of its folders."""
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, check=True)  # noqa: S607
    return listed.stdout.decode().rstrip("\0").split("\0")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The distributions, from a copy of the source without anything that was left there."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    wheels, both = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("both")
    for folder, options in ((both, []), (wheels, ["--wheel"])):  # by itself, `build` makes the wheel from the sdist
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), *options, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,), (of_sdist,) = wheels.glob("*.whl"), both.glob("*.tar.gz"), both.glob("*.whl")
    return Built(wheel, sdist, of_sdist)


class Installed:
    """An environment in which the wheel is, with an empty folder to work in."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder / "venv", symlinks=True)
        self.bin = folder / "venv" / "bin"
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(self.bin / "python"),
            "install",
            "--quiet",
            "--no-index",
        ]
        subprocess.run([*command, "--no-deps", str(wheel)], check=True, timeout=150)
        (site_packages,) = (folder / "venv" / "lib").glob("python3.*/site-packages")
        (site_packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.site_packages = site_packages
        self.folder = folder / "empty"
        self.folder.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AUREON_", "PYTHON"))}
        self.environment = {**kept, "AUREON_GATE": "off"}

    def run(self, program: str, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a program of the environment to its end."""
        return subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )

    def start(self, program: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start a program of the environment."""
        with (self.folder / "said.txt").open("ab") as said:
            return subprocess.Popen(
                [str(self.bin / program), *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                text=True,
            )


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, installed."""
    return Installed(tmp_path_factory.mktemp("installed"), built.wheel)


def contents(wheel: Path) -> dict[str, str]:
    """The files of a wheel, each with its sha256."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def test_the_wheel_has_every_file_of_the_packages_and_no_other(built: Built) -> None:
    """SQL, JSON, TOML, the page, what is for deploying, the marks of types; and no tests."""
    found = {name for name in contents(built.wheel) if ".dist-info/" not in name}
    assert found == set(tracked(*PACKAGES))
    assert {f"{package}/py.typed" for package in PACKAGES} < found
    assert {"flows/commands/ui_page/index.html", "flows/deploy/compose.yaml", "schemas/VERSIONS.md"} < found


def test_the_sdist_builds_the_same_wheel(built: Built) -> None:
    """File by file; it has what is read by people, too."""
    assert contents(built.of_sdist) == contents(built.wheel)
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml"} < names


def test_what_it_says_of_itself_is_what_it_is(built: Built) -> None:
    """Version, Pythons, extras, licence, and that README is its description."""
    with zipfile.ZipFile(built.wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        told = email.parser.BytesParser().parsebytes(archive.read(name))
    assert told["Version"] == importlib.metadata.version("aureon")
    assert told["Requires-Python"] == "<3.13,>=3.11"
    assert told["License-Expression"] == "Apache-2.0"
    assert set(told.get_all("Provides-Extra", [])) == {"embedded", "demo", "llm", "embeddings", "otel", "dev"}
    assert told.get_payload(decode=True) == (ROOT / "README.md").read_bytes()


def test_what_is_installed_is_not_the_source(installed: Installed) -> None:
    """Else all that follows would show nothing; and each module of it can be imported there."""
    program = (
        "import importlib, json, pkgutil, sys\n"
        f"found = [importlib.import_module(p) for p in {PACKAGES!r}]\n"
        "for package in found:\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if module.name != 'connectors.sandbox_child':  # it shuts its own process in\n"
        "            importlib.import_module(module.name)\n"
        "names = [n for n in sys.modules if n.partition('.')[0] in ('flows', 'connectors', 'schemas', 'one_lake')]\n"
        "print(json.dumps([sys.path, [getattr(sys.modules[n], '__file__', None) for n in names]]))\n"
    )
    done = installed.run("python", "-c", program)
    assert done.returncode == 0, done.stderr
    path, files = json.loads(done.stdout)
    assert str(ROOT) not in path
    assert len(files) > 150
    assert [f for f in files if f is not None and not f.startswith(str(installed.site_packages))] == []


def test_the_demo_runs_from_the_wheel(installed: Installed) -> None:
    """With its broker, its solvers and its verifiers, in an empty folder."""
    done = installed.run("aureon", "demo", "--tasks", str(TASKS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{TASKS} tasks and" in done.stdout


def test_the_cell_runs_under_bytewax_from_the_wheel(installed: Installed) -> None:
    """As Bytewax documents it; a task that is submitted gets into the lake."""
    task = json.dumps({"topic": "math", "logical_id": "euler", "payload": {"prompt": "Solve for m: 3*m = 9"}})
    store = ".aureon/recovery"
    broker = installed.start("aureon", "broker")
    cell: subprocess.Popen[str] | None = None
    try:
        until(lambda: installed.run("aureon", "submit", "-", stdin=task).returncode == 0, 60, broker)
        (installed.folder / store).mkdir()
        assert installed.run("python", "-m", "bytewax.recovery", store, "1").returncode == 0
        cell = installed.start("python", "-m", "bytewax.run", "flows.refine", "-r", store, "-s", "1", "-b", "0")
        query = "SELECT answer FROM one WHERE logical_id = 'euler'"
        until(lambda: json.loads(installed.run("aureon", "sql", "--json", query).stdout or "[]"), 90, cell)
        assert json.loads(installed.run("aureon", "sql", "--json", query).stdout) == [{"answer": "3"}]
        cell.send_signal(signal.SIGTERM)
        assert cell.wait(60) == 0, (installed.folder / "said.txt").read_text()
    finally:
        for process in filter(None, (cell, broker)):
            process.terminate()
            process.wait(60)


def test_whoever_uses_it_is_told_its_types(installed: Installed) -> None:
    """So that mypy takes what is installed for typed, and finds what does not fit."""
    (installed.folder / "user.py").write_text(
        "import one_lake\nfrom schemas.head import Head\n\nx: int = Head.cluster\n"
    )
    command = ["-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(installed.folder / "cache")]
    done = installed.run("python", *command, "user.py")
    assert done.stdout.splitlines()[0].startswith("user.py:4: error: Incompatible types in assignment"), done.stdout
    assert "Found 1 error in 1 file" in done.stdout
