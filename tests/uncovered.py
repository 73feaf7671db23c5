"""What no test reaches: what `make test` saw of it, beside `uncovered.toml`, which lists it with a reason each.

A place has a name that stays the same when lines move: its function, if no test enters that; else its function and the
text of the first line that is missed. Where a condition never comes out one way, and no line says so, that is the
condition's. `*` is a whole file.
"""

import tempfile
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import msgspec
from coverage import Coverage
from msgspec import Struct

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".toml")
ALL = ROOT / ".coverage" / "uncovered.txt"
WHOLE = "*"


class Function(Struct, frozen=True):
    """What is known of one, or of what is outside of all functions of a file."""

    executed_lines: list[int]
    missing_lines: list[int]
    missing_branches: list[tuple[int, int]]


class File(Struct, frozen=True):
    """Its functions, by their names."""

    functions: dict[str, Function]


class Totals(Struct, frozen=True):
    """What is known of all files."""

    num_statements: int
    covered_lines: int
    num_branches: int
    covered_branches: int


class Report(Struct, frozen=True):
    """As coverage.py writes it."""

    files: dict[str, File]
    totals: Totals


class Place(Struct, frozen=True, order=True):
    """Where no test comes."""

    file: str
    line: int
    name: str

    @property
    def is_function(self) -> bool:
        """Whether no test enters the function at all."""
        return ":" not in self.name


def places(file: str, report: File, lines: list[str]) -> Iterator[Place]:
    """Give what is missed of a file.

    Args:
        file: its name.
        report: what is known of it.
        lines: its text.
    """
    for told, function in report.functions.items():
        name, missing = told.partition("@")[0], set(function.missing_lines)
        if told and missing and not function.executed_lines:
            yield Place(file, min(missing), name)
            continue
        reached = True
        for line in sorted(missing.union(function.executed_lines)):
            if line in missing and reached:
                yield Place(file, line, f"{name}: {lines[line - 1].strip()}")
            reached = line not in missing
        for line in sorted({line for line, to in function.missing_branches if to not in missing}):
            yield Place(file, line, f"{name}: {lines[line - 1].strip()}")


def reasons() -> dict[str, dict[str, str]]:
    """Read the list: by file, by place."""
    found: dict[str, dict[str, str]] = tomllib.loads(LIST.read_text())
    return found


def seen() -> Report:
    """Put together what all processes saw, and print it a file, where a file is not covered whole."""
    taken = Coverage()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a process that was killed while it wrote has left half a file
        taken.combine()
    taken.save()
    taken.report(skip_covered=True, show_missing=False)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        taken.json_report(outfile=file.name)
        return msgspec.json.decode(Path(file.name).read_bytes(), type=Report)


def main() -> None:
    """Print what is covered, and the functions that are neither covered nor listed; the other places go to a file."""
    report, listed = seen(), reasons()
    found = [p for name, file in report.files.items() for p in places(name, file, text(name))]
    new = sorted(p for p in found if not {p.name, WHOLE} & set(listed.get(p.file, {})))
    totals = report.totals
    print(f"covered: {share(totals.covered_lines, totals.num_statements)} lines,", end=" ")
    print(f"{share(totals.covered_branches, totals.num_branches)} branches;", end=" ")
    print(f"of {len(found)} places that are not, {len(found) - len(new)} are in {LIST.relative_to(ROOT)}, with reasons")
    ALL.write_text("".join(f"{place.file}:{place.line}: {place.name}\n" for place in new))
    for place in new:
        if place.is_function:
            print(f"  {place.file}:{place.line}: no test calls {place.name}")
    print(f"all {len(new)} that are not listed: {ALL.relative_to(ROOT)}")


def share(part: int, whole: int) -> str:
    """Say how much of it."""
    return f"{100 * part / whole:.1f} % of {whole:,}"


def text(file: str) -> list[str]:
    """The lines of a file."""
    return (ROOT / file).read_text().splitlines()


if __name__ == "__main__":
    main()
