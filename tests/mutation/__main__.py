"""Change the code in one place at a time, and see whether a test fails.

python -m tests.mutation                       all targets; what was killed before is not judged again
python -m tests.mutation flows/lane.py         one of them, or several
python -m tests.mutation flows/lane.py _find   the mutants with a word in their name
python -m tests.mutation --listed              those that are listed as equivalent, too

It takes one processor. Exit code 1 where a mutant survives that `equivalent.toml` does not list, and where it lists one
that there is not, or that a test kills.
"""

# ruff: noqa: T201 - a command prints
import ast
import hashlib
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.mutation.judge import SURVIVED, Target, judge
from tests.mutation.operators import Mutant, functions, mutants
from tests.mutation.targets import TARGETS

_LISTED = Path(__file__).with_name("equivalent.toml")
_RESULTS = Path(".mutation")
"""What was killed, by module, one line a mutant; a run that was ended goes on from there."""


class _Killed(Struct, array_like=True):
    name: str
    digest: str
    """Of the function that it is in, or of all: what has changed is judged anew."""
    by: str


class _Results:
    """What was killed of one module."""

    def __init__(self, target: Target) -> None:
        source = Path(target.path).read_text("utf-8")
        whole = _digest(source)
        parts = {name: _digest(ast.dump(node)) for name, node in functions(source).items()}
        self.digests = {m.name: parts.get(m.function, whole) for m in mutants(source)}
        self.killed: dict[str, str] = {}
        self._file = _RESULTS / f"{target.module}.jsonl"
        self._file.parent.mkdir(exist_ok=True)
        for line in self._file.read_bytes().splitlines() if self._file.exists() else ():
            try:
                one = msgspec.json.decode(line, type=_Killed)
            except msgspec.DecodeError:  # the run was ended while it wrote this
                continue
            if one.digest == self.digests.get(one.name):
                self.killed[one.name] = one.by

    def add(self, mutant: Mutant, killer: str) -> None:
        """Write one down."""
        self.killed[mutant.name] = killer
        with self._file.open("ab") as out:
            out.write(msgspec.json.encode(_Killed(mutant.name, self.digests[mutant.name], killer)) + b"\n")


def main(arguments: list[str]) -> int:
    """Judge what the arguments name."""
    if "--help" in arguments:
        print(__doc__)
        return 2
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    paths = [a for a in arguments if a.endswith(".py")]
    words = [a for a in arguments if not a.endswith(".py") and a != "--listed"]
    listed = tomllib.loads(_LISTED.read_text("utf-8"))
    print(f"{'':40} mutants  killed  equivalent  surviving")
    all_good = True
    for target in TARGETS:
        if not paths or target.path in paths:
            all_good &= _run(target, listed.get(target.path, {}), words, with_listed="--listed" in arguments)
    return 0 if all_good else 1


def _run(target: Target, equivalent: Mapping[str, str], words: list[str], *, with_listed: bool) -> bool:
    """Judge a module; tell whether nothing survives, and the list is right."""
    results = _Results(target)
    surviving: list[str] = []

    def wanted(mutant: Mutant) -> bool:
        passed_over = mutant.name in equivalent and not with_listed
        return mutant.name not in results.killed and not passed_over and all(word in mutant.name for word in words)

    def told(mutant: Mutant, killer: str) -> None:
        if killer != SURVIVED:
            results.add(mutant, killer)
        elif mutant.name not in equivalent:
            surviving.append(mutant.name)
            print(f"  survives {target.path}:{mutant.line}  {mutant.name}", flush=True)

    judge(target, wanted, told)
    wrong = [name for name in equivalent if name not in results.digests or name in results.killed]
    for name in wrong:
        print(f"  listed as equivalent, and {results.killed.get(name, 'there is no such mutant')}: {name}")
    figures = f"{len(results.digests):7} {len(results.killed):7} {len(equivalent) - len(wrong):11} {len(surviving):10}"
    print(f"{target.path:40} {figures}", flush=True)
    return not surviving and not wrong


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
