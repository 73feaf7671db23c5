"""What sympy says of two expressions, in a process of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from flows.comparing import symbolic
from flows.comparing.formulas import same_formula
from flows.comparing.symbolic import Prover, prove
from tests.aureon_command import environment


@pytest.fixture(scope="module")
def prover() -> Iterator[Prover]:
    """One that has started, and may take all the time there is."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(symbolic, "SAVED_S", 1e6)
        prover = Prover(5.0)
        until = time.monotonic() + 60
        while prover("x", "x + y - y") is None and time.monotonic() < until:
            pass
        yield prover
        prover.close()


@pytest.mark.parametrize(
    "a, b, verdict",
    [
        ("sin(x)^2 + cos(x)^2 - 1", "0", True),
        ("2^5000 * 2", "2^5001", True),
        ("2^5000", "2^5001", False),
        ("sqrt(2)*sqrt(3) - sqrt(6)", "0", True),
        ("1000!/999!", "1000", True),
        ("sqrt(x^2)", "|x|", True),
        ("2^" * 4 + "2", "2^" * 5 + "2", None),
        ("1000000!", "x", None),
        ("1/0", "1", None),
        ("x +", "x", None),
        ("__import__('os')", "x", None),
    ],
)
def test_it_decides_what_values_do_not(prover: Prover, a: str, b: str, verdict: object) -> None:
    """And says so where it cannot; the same from this process as from its own."""
    assert prover(a, b) is verdict
    assert prover(b, a) is verdict
    assert prove(a, b) is verdict


def test_its_process_answers_line_by_line_until_there_are_no_more() -> None:
    """Also what is no question at all."""
    questions = b'["x", "x + y - y"]\n["x", "y"]\n["1/0", "1"]\nnonsense\n'
    command = [sys.executable, "-m", "flows.comparing.symbolic", "5"]
    done = subprocess.run(command, input=questions, env=environment(), stdout=subprocess.PIPE, timeout=60, check=True)
    assert done.stdout.decode().split() == ["ready", "same", "different", "unknown", "unknown"]


def test_an_answer_is_proven_the_same(prover: Prover) -> None:
    """Also within a tuple."""
    assert same_formula("(1, sin(x)^2 + cos(x)^2 - 1)", "(1, 0)", prover)
    assert not same_formula("(1, sin(x)^2 + cos(x)^2 - 1)", "(2, 0)", prover)


@pytest.mark.unmeasured
def test_it_is_stopped_in_time() -> None:
    """The process that takes too long is ended, and the next question has another."""
    prover = Prover(0.5)
    hard = "sqrt(sin(x^7+y)^9 + exp(x*y*z)^11)^13"
    try:
        until = time.monotonic() + 60
        while prover("x", "x + y - y") is None and time.monotonic() < until:
            pass
        started = time.monotonic()
        assert prover(f"{hard} - 1", hard.replace("sin", "cos")) is None
        assert time.monotonic() - started < 2.0
        while prover("2^5000 * 2", "2^5001") is None and time.monotonic() < until:
            pass
        assert prover("2^5000 * 2", "2^5001") is True
    finally:
        prover.close()


@pytest.mark.unmeasured
def test_a_start_is_not_waited_for_longer_than_an_answer() -> None:
    """Loading sympy takes a second or two; what is asked meanwhile is left open, and asked again later."""
    prover = Prover(0.01)
    assert prover("2^5000 * 2", "2^5001") is None
    assert not prover._is_ready
    assert prover._process is not None, "one that had started would have been asked, and ended since its time was over"
    prover.close()


def test_what_was_told_is_kept_and_the_oldest_makes_room(prover: Prover, monkeypatch: pytest.MonkeyPatch) -> None:
    """So memory is bounded; a process that has ended meanwhile has a successor."""
    monkeypatch.setattr(symbolic, "MAX_KEPT", 2)
    prover._known.clear()
    until = time.monotonic() + 30
    for number in range(3):
        assert prover(f"{number} + y", f"y + {number}")
    assert list(prover._known) == [("1 + y", "y + 1"), ("2 + y", "y + 2")]
    before = prover._process
    assert before is not None
    before.kill()
    before.wait()
    while not (found := prover("3 + y", "y + 3")) and time.monotonic() < until:
        prover._left_s = 60.0
    assert found
    assert prover._process is not before
