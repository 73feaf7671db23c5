"""What `aureon demo --llm` tells of the language model: how it fares by topic as the run goes on, by the lake alone."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import duckdb
import msgspec
from msgspec import Struct
from rich.table import Table

from flows.affinity import QUALITY_WEIGHT
from flows.counts import QUALITY_MEMORY
from flows.votes import RELIABILITY

PARTS = 4
"""Of the run; each has as many rounds."""


class LlmFigures(Struct, frozen=True, kw_only=True):
    """A language model on one topic in one part of the run."""

    topic: str
    part: int
    """1 to 4."""
    rounds: int
    asked: int
    """Rounds in which it was asked."""
    right: int
    """Of its answers in rounds that settled a task because several models agreed: those that agreed with them."""
    wrong: int
    none: int
    """Calls without an answer."""
    marked: int
    """Answers to the demo's own tasks, and how many of them the verifier accepts."""
    marked_right: int
    affinity: float
    """At the end of this part."""


_ROUNDS = """
WITH parts AS (
    SELECT *, ntile($parts) OVER (ORDER BY decided_at, lane, decision_offset) AS part
    FROM rounds WHERE candidates <> '[]'
),
calls AS (
    SELECT lane, decision_offset, unnest(from_json(
        candidates, '[{"model": "VARCHAR", "status": "VARCHAR", "text": "VARCHAR"}]'), recursive := true)
    FROM parts
),
its AS (SELECT lane, decision_offset, coalesce(status, 'ok') AS status, text FROM calls WHERE model = $model)
SELECT p.topic, p.part,
    CASE
        WHEN i.status IS NULL THEN 'not asked'
        WHEN i.status <> 'ok' THEN 'none'
        WHEN r.evidence = 'cross-model' AND NOT r.forced THEN if(list_contains(r.models, $model), 'right', 'wrong')
        ELSE 'untold'
    END,
    coalesce(i.text, ''),
    if(i.status = 'ok', CAST(o.metadata AS VARCHAR), NULL)
FROM parts p
LEFT JOIN its i USING (lane, decision_offset)
LEFT JOIN records r USING (lane, decision_offset)
LEFT JOIN one o ON (o.topic, o.logical_id) = (p.topic, p.logical_id) AND o.parent_id IS NULL
ORDER BY p.decided_at, p.lane, p.decision_offset
"""
"""Every round with answers in order, as `_Round` has it; a branch has no metadata of a task."""


class _Round(NamedTuple):
    topic: str
    part: int
    came: str
    """What came of the call to the model."""
    text: str
    metadata: str | None
    """Of the task, where there is an answer to mark."""


def llm_figures(
    lake: duckdb.DuckDBPyConnection,
    model: str,
    mark: Callable[[Sequence[tuple[Mapping[str, str], str]]], Sequence[bool]],
) -> tuple[LlmFigures, ...]:
    """Follow a model through the run.

    Args:
        lake: all that was decided.
        model: its name.
        mark: tells of answers, each with the metadata of its task, which are right.
    """
    rounds = [_Round(*row) for row in lake.execute(_ROUNDS, {"parts": PARTS, "model": model}).fetchall()]
    answered = [r for r in rounds if r.metadata is not None]
    marks = mark([(msgspec.json.decode(r.metadata or "{}", type=dict[str, str]), r.text) for r in answered])
    marked = list(zip(answered, marks, strict=True))
    found = []
    for topic in sorted({r.topic for r in rounds}):
        right = judged = 0.0
        for part in range(1, PARTS + 1):
            here = [r for r in rounds if (r.topic, r.part) == (topic, part)]
            marks_here = [good for r, good in marked if (r.topic, r.part) == (topic, part)]
            came = Counter(r.came for r in here)
            for r in here:
                if r.came in ("right", "wrong", "none"):
                    right, judged = right * QUALITY_MEMORY + (r.came == "right"), judged * QUALITY_MEMORY + 1
            found.append(
                LlmFigures(
                    topic=topic,
                    part=part,
                    rounds=len(here),
                    asked=len(here) - came["not asked"],
                    right=came["right"],
                    wrong=came["wrong"],
                    none=came["none"],
                    marked=len(marks_here),
                    marked_right=sum(marks_here),
                    affinity=round((RELIABILITY * QUALITY_WEIGHT + right) / (QUALITY_WEIGHT + judged), 3),
                )
            )
    return tuple(found)


def llm_table(figures: Sequence[LlmFigures], table: Table) -> Table:
    """Fill a table that has a column for each field, with shares for counts."""
    for f in figures:
        judged = f.right + f.wrong + f.none
        table.add_row(
            f.topic if f.part == 1 else "",
            f"{f.part} of {PARTS}",
            f"{f.rounds:,}",
            f"{f.asked:,}",
            f"{100 * f.asked / f.rounds:.0f} %" if f.rounds else "-",
            f"{f.right:,} of {judged:,}" if judged else "-",
            f"{f.marked_right:,} of {f.marked:,}" if f.marked else "-",
            f"{f.affinity:.2f}",
        )
    return table
