"""What the demo ends with: how much was done, how fast, and how much of it is right."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

import one_lake
from flows.batch import add_asked
from flows.commands.examiner import Examiner, Marking
from flows.commands.llm_figures import LlmFigures, llm_figures, llm_table
from flows.demo_tasks import RIGHT
from flows.terminal import command_name

WIDTH = 110
"""Where there is no terminal to ask."""


class FamilyFigures(Struct, frozen=True, kw_only=True):
    """The tasks of one generator."""

    family: str
    topic: str
    tasks: int
    unforced: int
    """Converged because the policy was satisfied."""
    unforced_right: int
    forced: int
    forced_right: int
    dead: int
    more_rounds: int
    """Ended after more than one round."""


class AgreementFigures(Struct, frozen=True, kw_only=True):
    """The converged tasks in which as many of as many candidates agreed."""

    agreeing: int
    candidates: int
    tasks: int
    right: int


class Result(Struct, frozen=True, kw_only=True):
    """All figures of a finished demo; of the tasks themselves, but where branches are named."""

    tasks: int
    converged: int
    forced: int
    dead: int
    right: int
    """Converged, forced or not, with an answer that the verifier accepts."""
    branches: int
    branches_converged: int
    decisions: int
    calls: int
    ran_s: float
    by_rounds: dict[int, int]
    """How many tasks converged after so many rounds."""
    families: tuple[FamilyFigures, ...]
    agreement: tuple[AgreementFigures, ...]
    dead_letters: dict[str, int]
    """Of tasks and branches, by reason."""
    example_parent: str = ""
    """The id of a task that had branches."""
    llm: tuple[LlmFigures, ...] = ()
    """Of the language model, where it was asked, by topic and part of the run."""


_TASKS = """
SELECT asked.topic, asked.logical_id, one.answer, one.forced, one.round_index, one.metadata,
    len(one.models), round(len(one.models) / nullif(one.agreement, 0))::BIGINT
FROM asked LEFT JOIN one USING (topic, logical_id)
"""


def evaluate(lake_dir: Path, ids: Sequence[tuple[str, str]], examiner: Examiner, ran_s: float, llm: str = "") -> Result:
    """Mark all answers and sum up.

    Args:
        lake_dir: where the records are.
        ids: (topic, logical id) of the tasks.
        examiner: knows the verifiers.
        ran_s: how long it all took.
        llm: the name of the language model that was asked; empty for none.
    """

    def mark(answers: Sequence[tuple[Mapping[str, str], str]]) -> list[bool]:
        scores = examiner.scores([Marking(dict(metadata), answer) for metadata, answer in answers])
        return [score >= RIGHT for score in scores]

    with one_lake.connect(lake_dir) as lake:
        add_asked(lake, ids)
        rows = lake.execute(_TASKS).fetchall()
        converged = [row for row in rows if row[3] is not None]
        marks = mark([(_metadata(row[5]), row[2] or "") for row in converged])
        right = {(row[0], row[1]): good for row, good in zip(converged, marks, strict=True)}
        by_rounds: dict[int, int] = {}
        for row in converged:
            by_rounds[row[4] + 1] = by_rounds.get(row[4] + 1, 0) + 1
        return Result(
            tasks=len(rows),
            converged=len(converged),
            forced=sum(row[3] for row in converged),
            dead=len(rows) - len(converged),
            right=sum(right.values()),
            branches=_number(lake, "SELECT count(*) FROM branches"),
            branches_converged=_number(lake, "SELECT count(*) FROM branches SEMI JOIN one USING (topic, logical_id)"),
            decisions=_number(lake, "SELECT count(*) FROM rounds"),
            calls=_number(lake, "SELECT coalesce(sum(calls), 0) FROM rounds"),
            ran_s=round(ran_s, 1),
            by_rounds=dict(sorted(by_rounds.items())),
            families=_families(lake, rows, right),
            agreement=_agreement(converged, right),
            dead_letters=dict(
                lake.execute("SELECT reason, count(*) FROM dead_letters GROUP BY reason ORDER BY 2 DESC").fetchall()
            ),
            example_parent=_text(lake, "SELECT parent_id FROM branches ORDER BY depth DESC, parent_id LIMIT 1"),
            llm=llm_figures(lake, llm, mark) if llm else (),
        )


def _families(
    lake: duckdb.DuckDBPyConnection, rows: Sequence[Any], right: dict[tuple[str, str], bool]
) -> tuple[FamilyFigures, ...]:
    more = {
        tuple(row)
        for row in lake.execute("SELECT DISTINCT topic, logical_id FROM rounds WHERE round_index > 0").fetchall()
    }
    counted: dict[str, dict[str, Any]] = {}
    for topic, logical_id, _, forced, *_ in rows:
        family = logical_id.rsplit("-", 2)[0]
        figures = counted.setdefault(
            family,
            dict.fromkeys(("tasks", "unforced", "unforced_right", "forced", "forced_right", "dead", "more_rounds"), 0)
            | {"family": family, "topic": topic},
        )
        figures["tasks"] += 1
        figures["more_rounds"] += (topic, logical_id) in more
        if forced is None:
            figures["dead"] += 1
        else:
            kind = "forced" if forced else "unforced"
            figures[kind] += 1
            figures[f"{kind}_right"] += right[topic, logical_id]
    return tuple(FamilyFigures(**figures) for figures in counted.values())


def _agreement(converged: Sequence[Any], right: dict[tuple[str, str], bool]) -> tuple[AgreementFigures, ...]:
    counted: dict[tuple[int, int], list[int]] = {}
    for topic, logical_id, *_, agreeing, candidates in converged:
        figures = counted.setdefault((candidates or 0, agreeing or 0), [0, 0])
        figures[0] += 1
        figures[1] += right[topic, logical_id]
    return tuple(
        AgreementFigures(agreeing=agreeing, candidates=candidates, tasks=tasks, right=good)
        for (candidates, agreeing), (tasks, good) in sorted(counted.items(), reverse=True)
    )


def _metadata(text: str) -> dict[str, str]:
    return msgspec.json.decode(text, type=dict[str, str])


def _number(lake: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(lake.execute(query).fetchall()[0][0])


def _text(lake: duckdb.DuckDBPyConnection, query: str) -> str:
    rows = lake.execute(query).fetchall()
    return str(rows[0][0]) if rows else ""


# -- on paper ------------------------------------------------------------------------------------------------------


def print_report(result: Result, lake_dir: Path) -> None:
    """Print it all, and what to try next."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    ended = result.tasks + result.branches
    console.print(
        f"\n{result.tasks:,} tasks and {result.branches:,} branches ended in {result.ran_s:,.1f} s: "
        f"{ended / max(result.ran_s, 0.1):,.0f} tasks/s, {result.decisions:,} rounds, {result.calls:,} calls.",
        soft_wrap=True,
    )
    console.print(
        f"Of the tasks {result.converged:,} converged ({result.forced:,} forced), {result.dead:,} are dead letters; "
        f"{result.right:,} of the converged ({_percent(result.right, result.converged)}) are right by reasoning-gym's "
        f"own verifiers. {result.branches_converged:,} branches converged.",
        soft_wrap=True,
    )
    rounds = ", ".join(f"{count:,} after {rounds}" for rounds, count in result.by_rounds.items())
    console.print(f"Rounds to convergence: {rounds}.\n", soft_wrap=True)
    console.print(_families_table(result))
    console.print()
    console.print(_agreement_table(result))
    console.print()
    if result.llm:
        console.print("The language model, a quarter of the run at a time: what it was asked, and what came of it.\n")
        columns = ("topic", "quarter", "rounds", "asked in", "share", "agreed with", "verified", "affinity")
        console.print(llm_table(result.llm, _table(*columns)))
        console.print()
    if result.dead_letters:
        console.print(_dead_letters_table(result))
        console.print()
    console.print("To go on:\n")
    lake = shlex.quote(str(lake_dir))
    for query in queries(result):
        console.print(f'  {command_name()} sql --lake {lake} "{query}"', soft_wrap=True, markup=False)


def queries(result: Result) -> tuple[str, ...]:
    """Three questions that the lake answers."""
    example = result.example_parent.replace("'", "''")
    return (
        "SELECT topic, count(*) AS tasks, avg(round_index + 1) AS rounds FROM one GROUP BY topic ORDER BY topic",
        "SELECT round_index + 1 AS round, kind, count(*), avg(confidence) FROM rounds GROUP BY ALL ORDER BY ALL",
        f"SELECT direction, topic, logical_id, status, answer FROM lineage('{example}')",  # noqa: S608 - is printed
    )


def _families_table(result: Result) -> Table:
    table = _table("family", "topic", "tasks", "unforced", "right", "forced", "right", "dead", "> 1 round")
    for f in result.families:
        table.add_row(
            f.family,
            f.topic,
            f"{f.tasks:,}",
            _percent(f.unforced, f.tasks),
            _percent(f.unforced_right, f.unforced),
            f"{f.forced:,}",
            _percent(f.forced_right, f.forced),
            f"{f.dead:,}",
            _percent(f.more_rounds, f.tasks),
        )
    return table


def _agreement_table(result: Result) -> Table:
    table = _table("agreeing candidates", "tasks", "right")
    for f in result.agreement:
        told = f"{f.agreeing} of {f.candidates}" if f.candidates else "none in the last round"
        table.add_row(told, f"{f.tasks:,}", _percent(f.right, f.tasks))
    return table


def _dead_letters_table(result: Result) -> Table:
    table = _table("dead letters", "count")
    for reason, count in result.dead_letters.items():
        table.add_row(reason, f"{count:,}")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="left" if name == "topic" else "right")
    return table


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
