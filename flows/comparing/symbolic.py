"""Are two expressions the same? sympy's word on it, in a process of its own, within a time limit.

It is asked where values at points do not tell: where they cancel, overflow, or are too few. sympy is given the tree
that our own parser made, never a text. What it does cannot be bounded from within (a power of large numbers is one call
into C), so a process that takes too long is ended, by an alarm of its own and by the one that started it, and the next
question starts another.
"""

import contextlib
import operator
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from connectors.nodes.solvers.expressions import Name, Node, Number, Unary, UnreadableError
from flows.comparing.points import read_formula

SHARE = 0.1
SAVED_S = 10.0
"""So much of all time may go into questions, and so many seconds in one go: answers that are hard to compare hold
nothing else up."""
MAX_KEPT = 4096
"""Verdicts that are remembered."""
MAX_MEMORY = 1 << 30
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 1_000
"""Larger ones are not worked out."""


class Prover:
    """Asks sympy; nothing is started before the first question.

    Args:
        limit_s: how long one question may take.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._known: OrderedDict[tuple[str, str], bool | None] = OrderedDict()
        self._left_s, self._at = SAVED_S, time.monotonic()

    def __call__(self, a: str, b: str) -> bool | None:
        """Tell whether two expressions are the same; None where sympy does not know, or not in time."""
        pair = (a, b) if a <= b else (b, a)
        with self._lock:
            if pair in self._known:
                self._known.move_to_end(pair)
                return self._known[pair]
            now = time.monotonic()
            self._left_s, self._at = min(SAVED_S, self._left_s + (now - self._at) * SHARE), now
            if self._left_s < self._limit_s or not self._started(now + self._limit_s):
                return None
            verdict = self._known[pair] = self._ask(pair, now + self._limit_s)
            self._left_s -= time.monotonic() - now
            if len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
            return verdict

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _started(self, until: float) -> bool:
        """Start the process if there is none; tell whether it is ready. Loading sympy takes a second or two."""
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            paths = os.pathsep.join(filter(None, sys.path))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.comparing.symbolic", str(self._limit_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={"PATH": os.defpath, "PYTHONPATH": paths, "PYTHONHASHSEED": "0"},
            )
        if not self._is_ready:
            self._is_ready = self._line(until) == _READY
        return self._is_ready

    def _ask(self, pair: tuple[str, str], until: float) -> bool | None:
        process = self._process
        if process is None or process.stdin is None:
            return None
        with contextlib.suppress(OSError):  # it has ended, by its limit of memory most likely
            process.stdin.write(msgspec.json.encode(pair) + b"\n")
            said = self._line(until)
            if said in _VERDICTS:
                return _VERDICTS[said]
        self._end()
        return None

    def _line(self, until: float) -> bytes:
        """What the process says next; nothing if that takes too long."""
        out = self._process.stdout if self._process is not None else None
        if out is None or not select.select([out], [], [], max(0.0, until - time.monotonic()))[0]:
            return b""
        return out.readline()

    def _end(self) -> None:
        process, self._process, self._is_ready = self._process, None, False
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


_READY = b"ready\n"
_SAYS = {True: b"same\n", False: b"different\n", None: b"unknown\n"}
_VERDICTS = {said: verdict for verdict, said in _SAYS.items()}


# -- in the process ----------------------------------------------------------------------------------------------------


def prove(a: str, b: str) -> bool | None:
    """Ask sympy, without any limit but on numbers that are large as written."""
    import sympy  # noqa: PLC0415 - it takes a second to load, and only this process needs it

    left, right = read_formula(a), read_formula(b)
    if left is None or right is None:
        return None
    try:
        apart = _built(left, sympy) - _built(right, sympy)
    except (UnreadableError, KeyError):
        return None
    if apart == 0:
        return True
    apart = sympy.simplify(apart)
    if apart == 0:
        return True
    same = apart.equals(0)
    return None if same is None else bool(same)


def _built(node: Node, sympy: Any) -> Any:
    """Write a tree with sympy's objects."""
    if isinstance(node, Number):
        return sympy.Rational(node.value.numerator, node.value.denominator)
    if isinstance(node, Name):
        constants = {"pi": sympy.pi, "e": sympy.E, "E": sympy.E, "i": sympy.I, "I": sympy.I}
        return constants.get(node.name) or sympy.Symbol(node.name, real=True)
    if isinstance(node, Unary):
        argument = _built(node.argument, sympy)
        if node.op == "factorial" and argument.is_number and not abs(argument) <= MAX_FACTORIAL:
            raise UnreadableError("a large factorial")
        return -argument if node.op == "-" else getattr(sympy, _NAMES.get(node.op, node.op))(argument)
    left, right = _built(node.left, sympy), _built(node.right, sympy)
    if node.op == "**" and right.is_number and not abs(right) <= MAX_EXPONENT:
        raise UnreadableError("a large power")
    if node.op == "/" and right == 0:
        raise UnreadableError("a division by zero")
    return _JOINED[node.op](left, right)


_NAMES = {"ln": "log", "abs": "Abs"}
_JOINED: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}


def main() -> None:
    """Answer until there are no more questions."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the one that started this process too
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    limit_s = float(sys.argv[1])
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    prove("sin(x)^2 + cos(x)^2", "1")  # loads what sympy puts off
    with contextlib.suppress(BrokenPipeError):
        out.write(_READY)
        for line in sys.stdin.buffer:
            signal.setitimer(signal.ITIMER_REAL, limit_s)  # nobody handles it, so it ends the process, wherever that is
            try:
                verdict = prove(*msgspec.json.decode(line, type=tuple[str, str]))
            except Exception:  # noqa: BLE001 - whatever sympy stumbles over, it does not know
                verdict = None
            signal.setitimer(signal.ITIMER_REAL, 0)
            out.write(_SAYS[verdict])


if __name__ == "__main__":
    main()
