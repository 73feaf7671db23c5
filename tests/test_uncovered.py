"""What is taken of coverage, and the list of what is not covered."""

import ast
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.aureon_command import environment
from tests.uncovered import ROOT, WHOLE, Report, places, reasons, text

PROGRAM = """\
def sign(x):
    if x > 0:
        return "more"
    if x < 0:
        name = "less"
        return name
    return "none"


class Never:
    def called(self):
        return 1


def once(xs):
    for x in xs:
        if x:
            print(x)


sign(1), sign(0), once([1, 2])
"""

TESTS = """\
import os, subprocess, sys
import pytest
from coverage import Coverage

def is_followed():
    child = [sys.executable, "-c", "from coverage import Coverage; print(Coverage.current() is not None)"]
    return subprocess.run(child, capture_output=True, text=True, check=True).stdout == "True\\n"

def test_measured():
    assert Coverage.current()
    assert is_followed()

@pytest.mark.parametrize("_mark", [pytest.param(0, marks=m) for m in (pytest.mark.unmeasured, pytest.mark.chaos)])
def test_unmeasured(_mark):
    assert Coverage.current() is None
    assert not is_followed()

def test_measured_again():
    test_measured()
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Run Python in a folder, measured there or not."""
    kept = {name: value for name, value in environment().items() if not name.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_place_is_named_by_what_stays_when_lines_move(tmp_path: Path) -> None:
    """A function that is never called by itself; a line by its text; a condition where no line tells."""
    named = []
    for moved in ("", "\n\n# more\n"):
        program = moved + PROGRAM
        (tmp_path / "program.py").write_text(program)
        for command in (["run", "--branch", "program.py"], ["json", "-o", "told.json"]):
            run("-m", "coverage", *command, cwd=tmp_path)
        report = msgspec.json.decode((tmp_path / "told.json").read_bytes(), type=Report)
        found = list(places("program.py", report.files["program.py"], program.splitlines()))
        named.append([place.name for place in found])
        assert [place.is_function for place in found] == [False, True, False]
    assert named == [['sign: name = "less"', "Never.called", "once: if x:"]] * 2


def test_a_test_with_a_bar_of_its_own_is_left_alone_and_so_is_what_it_starts(tmp_path: Path) -> None:
    """And the one after it is measured again."""
    (tmp_path / "test_some.py").write_text(TESTS)
    config = f"--config-file={ROOT / 'pyproject.toml'}", "--rootdir", tmp_path, "-p", "tests.conftest"
    measured = "-m", "coverage", "run", f"--rcfile={ROOT / 'pyproject.toml'}"
    run(*measured, "-m", "pytest", *config, "-p", "no:cacheprovider", "-q", "test_some.py", cwd=tmp_path)


@pytest.mark.parametrize("file", reasons())
def test_what_is_listed_is_there(file: str) -> None:
    """Each place in its file, with its reason: what was moved elsewhere or deleted is taken off the list."""
    lines = text(file)
    functions = {
        name: {line.strip() for line in lines[a - 1 : b]} for name, a, b in _functions(ast.parse("\n".join(lines)))
    }
    functions[""] = {line.strip() for line in lines}
    for place, reason in reasons()[file].items():
        assert len(reason) > 10, f"{place}: why?"
        name, _, line = place.partition(": ")
        assert place == WHOLE or name in functions, f"there is no {name}"
        assert not line or line in functions[name], f"in {name} there is no {line}"


def _functions(tree: ast.AST, within: str = "") -> list[tuple[str, int, int]]:
    found = []
    for node in ast.iter_child_nodes(tree):
        inner = within
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{within}.{node.name}".lstrip(".")
            found.append((inner, node.lineno, node.end_lineno or node.lineno))
        found.extend(_functions(node, inner))
    return found
