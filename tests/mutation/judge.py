"""Judges the mutants of one module, each in a process of its own that is forked when all tests are imported.

A mutant of a function is judged where the tests were collected already: the function's code is exchanged in place. One
of what is done at import (a constant, a default) is judged in a process that imports everything with it, which takes
seconds. In both, the tests that call the function run, the quickest first; then the schedules of the simulation, where
the module is the lane. What has run for ten times as long as without a change, and some seconds, counts as killed.
"""

import ast
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, NoReturn

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from msgspec import Struct

from tests.mutation.operators import Mutant, functions, mutants

SURVIVED = ""
ENDLESS = "takes too long"
_SLOW_S = 1.5
"""A test that takes longer judges no mutant of a function: what only statistics or a cell can see is not tested."""
_WALL_S = 900.0
"""However slow the machine: what waits for something that does not come is ended, too."""
_MEMORY = 2 << 30


class Target(Struct, frozen=True):
    """A module, and what judges it."""

    path: str
    tests: tuple[str, ...]
    """Arguments of pytest."""
    schedules: int = 0
    """Of the simulation of the lane."""

    @property
    def module(self) -> str:
        """Its name."""
        return self.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


class _Baseline(Struct):
    """What the tests do where nothing is changed."""

    failed: list[str]
    seconds: dict[str, float]
    simulated_s: float
    calls: dict[str, list[str]]
    """By test, the first lines of the functions that it calls."""


def judge(target: Target, wanted: Callable[[Mutant], bool], told: Callable[[Mutant, str], None]) -> None:
    """Judge the wanted mutants; `told` hears what killed each.

    Raises:
        RuntimeError: the tests fail where nothing is changed.
    """
    source = Path(target.path).read_text("utf-8")
    by_name = {m.name: m for m in mutants(source) if wanted(m)}
    if not by_name:
        return
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        _in_session(target, source, set(by_name), writer)
    os.close(writer)
    left = set(by_name)
    problem = ""
    with os.fdopen(reader, "rb") as lines:
        for line in lines:
            name, killer = msgspec.json.decode(line, type=tuple[str, str])
            if name not in by_name:
                problem = killer
            else:
                told(by_name[name], killer)
                left.discard(name)
    os.waitpid(pid, 0)
    if problem:
        raise RuntimeError(problem)
    if left:
        as_it_is = Mutant("", "", 0, ast.Module([], []), ast.parse(source))
        failed = _forked(lambda: _judge_at_import(target, as_it_is), 600.0)
        if failed:
            raise RuntimeError(f"{target.path}: this fails where nothing is changed: {failed}")
    for mutant in mutants(source):
        if mutant.name in left:
            told(mutant, _forked(lambda m=mutant: _judge_at_import(target, m), 120.0))  # type: ignore[misc]


# -- where the tests are collected already -------------------------------------------------------------------------


def _in_session(target: Target, source: str, names: set[str], writer: int) -> NoReturn:
    """Collect the tests, see what they do, and judge what can be changed in place."""
    _be_quiet()

    def tell(name: str, killer: str) -> None:
        os.write(writer, msgspec.json.encode((name, killer)) + b"\n")

    class Plugin:
        @staticmethod
        def pytest_runtestloop(session: pytest.Session) -> bool:
            if session.testsfailed:
                tell("-", f"{target.path}: the tests cannot be imported")
            else:
                _judge_in_place(target, source, names, session.items, tell)
            return True

    try:
        code = _pytest(target.tests, [Plugin()])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            tell("-", f"{target.path}: the tests cannot be collected: {code!r}")
    except BaseException as error:  # noqa: BLE001 - whoever waits for this has to hear of it
        tell("-", f"{target.path}: the tests cannot be collected: {error!r}")
    os._exit(0)


def _judge_in_place(
    target: Target,
    source: str,
    names: set[str],
    items: Sequence[pytest.Item],
    tell: Callable[[str, str], None],
) -> None:
    if target.schedules:
        import tests.simulation.schedule  # noqa: F401, PLC0415 - before the forks
    baseline = msgspec.json.decode(_said_by(lambda: _baseline(target, items)), type=_Baseline)
    if baseline.failed:
        tell("-", f"{target.path}: these fail where nothing is changed: {baseline.failed}")
        return
    lines = _first_lines(source)
    module = sys.modules[target.module]
    quick = [item for item in items if baseline.seconds[item.nodeid] < _SLOW_S]
    quickest = sorted(quick, key=lambda item: baseline.seconds[item.nodeid])
    limit = 2.0 + 10 * (sum(baseline.seconds[item.nodeid] for item in quick) + baseline.simulated_s)
    for mutant in mutants(source):
        if mutant.name not in names or not mutant.function:
            continue
        function = _function(module, mutant.function)
        code = _code(mutant, target.path)
        if function is None or code is None or code.co_freevars != function.__code__.co_freevars:
            continue
        first = lines[mutant.function]
        chosen = [item for item in quickest if str(first) in baseline.calls[item.nodeid]]

        def run(function: FunctionType = function, code: CodeType = code, chosen: list[pytest.Item] = chosen) -> str:
            function.__code__ = code
            return _first_failing(chosen) or _first_bad_schedule(target.schedules)

        tell(mutant.name, _forked(run, limit))


def _baseline(target: Target, items: Sequence[pytest.Item]) -> bytes:
    done = _Baseline([], {}, 0.0, {})
    path = str(Path(target.path).resolve())
    called: set[int] = set()

    def trace(frame: FrameType, _event: str, _argument: Any) -> None:
        if frame.f_code.co_filename == path:
            called.add(frame.f_code.co_firstlineno)

    lines = _first_lines(Path(target.path).read_text("utf-8"))
    for item in items:
        called.clear()
        _forget()
        sys.settrace(trace)
        threading.settrace(trace)
        begun = time.process_time()
        failed = _first_failing([item])
        sys.settrace(None)
        threading.settrace(None)
        done.seconds[item.nodeid] = time.process_time() - begun
        done.calls[item.nodeid] = [str(n) for n in _outermost(called, lines)]
        if failed:
            done.failed.append(item.nodeid)
    begun = time.process_time()
    failed = _first_bad_schedule(target.schedules)
    done.simulated_s = time.process_time() - begun
    if failed:
        done.failed.append(failed)
    return msgspec.json.encode(done)


def _forget() -> None:
    """Clear the caches, so that a test calls what another one has called before."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("flows.", "schemas.", "connectors.")):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()


def _first_lines(source: str) -> dict[str, int]:
    """Where each function begins: its first line, or that of its first decorator."""
    found = functions(source)
    return {name: min([node.lineno, *[d.lineno for d in node.decorator_list]]) for name, node in found.items()}


def _outermost(called: set[int], lines: dict[str, int]) -> set[int]:
    begins = sorted(lines.values())
    return {max([b for b in begins if b <= line], default=0) for line in called}


def _function(module: ModuleType, name: str) -> FunctionType | None:
    found: Any = module
    for part in name.split("."):
        found = vars(found).get(part)
        if found is None:
            return None
    for wrapped in ("fget", "func", "__func__", "__wrapped__"):
        found = getattr(found, wrapped, None) or found
    return found if isinstance(found, FunctionType) else None


def _code(mutant: Mutant, path: str) -> CodeType | None:
    try:
        code = compile(mutant.alone, path, "exec")
    except SyntaxError:
        return None
    for part in mutant.function.split("."):
        code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == part)
    return code


# -- where everything is imported with it --------------------------------------------------------------------------


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed tree."""

    def __init__(self, target: Target, tree: ast.Module) -> None:
        self._target = target
        self._tree = tree

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Say that this one imports the module, and no other."""
        del path, target
        if fullname != self._target.module:
            return None
        return importlib.util.spec_from_file_location(fullname, Path(self._target.path).resolve(), loader=self)

    def exec_module(self, module: ModuleType) -> None:
        """Run it."""
        exec(compile(self._tree, self._target.path, "exec"), module.__dict__)  # noqa: S102 - that is what an import does


def _judge_at_import(target: Target, mutant: Mutant) -> str:
    sys.meta_path.insert(0, _Changed(target, mutant.module))
    failed: list[str] = []

    class Plugin:
        @staticmethod
        def pytest_runtestloop(session: pytest.Session) -> bool:
            failed.append("the tests cannot be imported" if session.testsfailed else _first_failing(session.items))
            return True

    code = _pytest(target.tests, [Plugin()])
    if not failed:
        return f"the tests cannot be collected: {code!r}"
    return failed[0] or _first_bad_schedule(target.schedules)


# -- tests and processes -------------------------------------------------------------------------------------------


def _pytest(tests: Sequence[str], plugins: list[object]) -> int | pytest.ExitCode:
    settings.register_profile(
        "mutation",
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    settings.load_profile("mutation")
    off = [f"-pno:{name}" for name in ("xdist", "cacheprovider", "faulthandler")]
    # Hypothesis is imported by then
    known = ["-Wignore::pytest.PytestAssertRewriteWarning", "--timeout=0", "-mnot kafka and not slow"]
    return pytest.main(["-q", *known, *off, *tests], plugins)


def _first_failing(items: Sequence[pytest.Item]) -> str:
    """Run tests until one fails."""
    from _pytest.runner import runtestprotocol  # noqa: PLC0415

    for item in items:
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=None)):
            return item.nodeid
    return SURVIVED


def _first_bad_schedule(schedules: int) -> str:
    if schedules:
        from tests.simulation.schedule import run  # noqa: PLC0415

        for seed in range(schedules):
            try:
                failures = run(seed).failures
            except Exception as error:  # noqa: BLE001
                failures = [repr(error)]
            if failures:
                return f"schedule {seed}: {failures[0]}"
    return SURVIVED


def _said_by(work: Callable[[], bytes], cpu_s: float = 3600.0) -> bytes:
    """Do something in a process of its own, and take what it says; nothing, where it ends otherwise."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        with contextlib.suppress(BaseException):
            _be_quiet()
            resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s) + 1, int(cpu_s) + 2))
            in_use = int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use + _MEMORY, in_use + _MEMORY))
            said = work()
            while said:
                said = said[os.write(writer, said) :]
        os._exit(0)
    os.close(writer)
    said = b""
    until = time.monotonic() + _WALL_S
    while select.select([reader], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            break
        said += part
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(reader)
    os.waitpid(pid, 0)
    return said


def _forked(work: Callable[[], str], cpu_s: float) -> str:
    """What killed a mutant; SURVIVED where nothing did."""

    def said() -> bytes:
        try:
            killer = work()
        except BaseException as error:  # noqa: BLE001 - whatever a mutant does
            killer = f"{type(error).__name__}: {error}"[:200]
        return msgspec.json.encode(killer)

    found = _said_by(said, cpu_s)
    return msgspec.json.decode(found, type=str) if found else ENDLESS


def _be_quiet() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
