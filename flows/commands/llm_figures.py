"""What `aureon demo --llm` tells of the language model: how it fares by topic as the run goes on, by the lake alone."""

from collections.abc import Callable, Mapping, Sequence

import duckdb
import msgspec
from msgspec import Struct
from rich.table import Table

PARTS = 4
"""Of the run; each has as many rounds."""
PRIOR = 0.6
PRIOR_WEIGHT = 4.0
"""Affinity before anything is learned, and how many calls that counts as."""


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
SELECT p.topic, p.part, i.status, i.text,
    CASE WHEN r.evidence = 'cross-model' AND NOT r.forced THEN list_contains(r.models, $model) END,
    CAST(o.metadata AS VARCHAR)
FROM parts p
LEFT JOIN its i USING (lane, decision_offset)
LEFT JOIN records r USING (lane, decision_offset)
LEFT JOIN one o ON (o.topic, o.logical_id) = (p.topic, p.logical_id) AND o.parent_id IS NULL
ORDER BY p.decided_at, p.lane, p.decision_offset
"""
"""Every round in order: topic, part, what the model returned, whether it was right, and the task's metadata."""


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
    rows = lake.execute(_ROUNDS, {"parts": PARTS, "model": model}).fetchall()
    answers = [
        (topic, part, msgspec.json.decode(metadata, type=dict[str, str]), text or "")
        for topic, part, status, text, _, metadata in rows
        if status == "ok" and metadata is not None
    ]
    marks = mark([(metadata, text) for _, _, metadata, text in answers])
    counted: dict[tuple[str, int], dict[str, int]] = {}
    names = ("rounds", "asked", "right", "wrong", "none", "marked", "marked_right")
    for topic in sorted({row[0] for row in rows}):
        for part in range(1, PARTS + 1):
            counted[topic, part] = dict.fromkeys(names, 0)
    for topic, part, status, _, agreed, _ in rows:
        figures = counted[topic, part]
        figures["rounds"] += 1
        figures["asked"] += status is not None
        figures["none"] += status not in (None, "ok")
        if status == "ok" and agreed is not None:
            figures["right" if agreed else "wrong"] += 1
    for (topic, part, _, _), right in zip(answers, marks, strict=True):
        counted[topic, part]["marked"] += 1
        counted[topic, part]["marked_right"] += right
    return tuple(
        LlmFigures(topic=topic, part=part, affinity=_affinity(counted, topic, part), **figures)
        for (topic, part), figures in counted.items()
    )


def _affinity(counted: Mapping[tuple[str, int], Mapping[str, int]], topic: str, part: int) -> float:
    """How often it was right up to the end of a part, the prior counted in."""
    so_far = [counted[topic, p] for p in range(1, part + 1)]
    right = sum(f["right"] for f in so_far)
    judged = right + sum(f["wrong"] + f["none"] for f in so_far)
    return round((PRIOR * PRIOR_WEIGHT + right) / (PRIOR_WEIGHT + judged), 3)


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
