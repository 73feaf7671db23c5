"""The mutation run itself, on a module of a few lines."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.operators import mutants

ROOT = Path(__file__).parents[2]
TOY = '''"""A module."""

MOST = 3


def fits(number: int) -> bool:
    """Not what the last of them is."""
    return number < MOST


def count_down(number: int) -> int:
    """Ends at 0."""
    while number > 0:
        number -= 1
    return number
'''
RUN = """
from tests.mutation.judge import Target, judge
toy = Target("toy.py", ("test_toy.py",))
judge(toy, lambda mutant: True, lambda mutant, killer: print(mutant.name, killer, sep="|"))
"""


def killers(folder: Path, *asserted: str) -> dict[str, str]:
    """What kills each mutant of the toy, where this is all that its tests assert."""
    (folder / "toy.py").write_text(TOY, "utf-8")
    body = "".join(f"    assert {a}\n" for a in asserted)
    (folder / "test_toy.py").write_text(f"import toy\n\n\ndef test_toy():\n{body}", "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    return dict(line.split("|", 1) for line in done.stdout.splitlines())


def test_a_mutant_that_no_assertion_sees_survives(tmp_path: Path) -> None:
    """Both in a function and where the module is imported; what runs for ever is killed."""
    judged = killers(tmp_path, "toy.fits(2)", "not toy.fits(5)", "toy.count_down(3) == 0")
    assert [name for name, killer in judged.items() if not killer] == [
        "fits: number < MOST => number <= MOST",
        "module: MOST = 3: 3 => 4",
    ]
    assert judged["count_down: number -= 1 => number += 1"] == "takes too long"
    assert judged["module: MOST = 3: 3 => 2"] == "test_toy.py::test_toy"


def test_with_the_missing_assertion_none_survives(tmp_path: Path) -> None:
    """And each says which test has killed it."""
    judged = killers(tmp_path, "toy.fits(2)", "not toy.fits(3)", "toy.count_down(3) == 0")
    assert len(judged) == len(list(mutants(TOY)))
    assert all(judged.values())


def test_tests_that_fail_without_any_change_judge_nothing(tmp_path: Path) -> None:
    """Else all would count as killed."""
    with pytest.raises(AssertionError, match="these fail where nothing is changed"):
        killers(tmp_path, "toy.fits(4)")
    assert [m.name for m in mutants("def f(a: int) -> int:\n    return a + 1\n")] == [
        "f: return a + 1 => return None",
        "f: a + 1 => a - 1",
        "f: a + 1: 1 => 2",
        "f: a + 1: 1 => 0",
    ]


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        'def f() -> None:\n    """Its own."""\n    log.info("said %d", 1)\n',
        "class A:\n    __slots__ = ()\n",
        "@lru_cache(maxsize=16)\ndef f() -> None: ...\n",
        "class A(Protocol):\n    def f(self) -> int:\n        return 1\n",
    ],
)
def test_what_no_decision_depends_on_is_left_as_it_is(source: str) -> None:
    """Words, caches and what is only declared."""
    assert not list(mutants(source))
