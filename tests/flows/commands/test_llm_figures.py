"""What the demo tells of the language model, from rows of a lake that are written here."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
from rich.table import Table

from flows.commands.llm_figures import LlmFigures, llm_figures, llm_table
from flows.votes import RELIABILITY

MODEL = "small"


def lake(rounds: Sequence[tuple[str, str, list[dict[str, Any]], dict[str, Any] | None]]) -> duckdb.DuckDBPyConnection:
    """A lake of decisions in order: topic, id, candidates, and the record where there is one."""
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE rounds (lane INT, decision_offset INT, decided_at DOUBLE, topic TEXT, logical_id TEXT, "
        "candidates TEXT)"
    )
    connection.execute(
        "CREATE TABLE records (lane INT, decision_offset INT, topic TEXT, logical_id TEXT, evidence TEXT, "
        "forced BOOLEAN, models TEXT[], metadata TEXT, parent_id TEXT)"
    )
    connection.execute("CREATE VIEW one AS FROM records")
    for offset, (topic, logical_id, candidates, record) in enumerate(rounds):
        connection.execute(
            "INSERT INTO rounds VALUES (0, ?, ?, ?, ?, ?)",
            [offset, float(offset), topic, logical_id, json.dumps(candidates)],
        )
        if record is not None:
            row = {"evidence": "cross-model", "forced": False, "parent_id": None} | record
            connection.execute(
                "INSERT INTO records VALUES (0, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    offset,
                    topic,
                    logical_id,
                    row["evidence"],
                    row["forced"],
                    row["models"],
                    json.dumps({"id": logical_id}),
                    row["parent_id"],
                ],
            )
    return connection


def nobody(answers: Sequence[tuple[Mapping[str, str], str]]) -> list[bool]:
    """Accept no answer."""
    return [False] * len(answers)


SAYS: dict[str, Any] = {"node": "n", "model": MODEL, "text": "7"}
OTHER: dict[str, Any] = {"node": "n", "model": "other", "text": "8", "meta": {"a": [1]}}
OVERRULED = {"models": ["other", "another"]}


def test_it_falls_where_it_is_wrong_and_only_there() -> None:
    """In each quarter of the run, by topic."""
    rounds = []
    for i in range(20):
        rounds.append(("math", f"m{i}", [SAYS, OTHER], OVERRULED))
        rounds.append(("logic", f"l{i}", [OTHER, SAYS], {"models": ["other", MODEL]}))
    figures = llm_figures(lake(rounds), MODEL, nobody)
    assert [(f.topic, f.part) for f in figures] == [(t, p) for t in ("logic", "math") for p in (1, 2, 3, 4)]
    assert all((f.rounds, f.asked) == (5, 5) for f in figures)
    logic, maths = [f.affinity for f in figures[:4]], [f.affinity for f in figures[4:]]
    assert RELIABILITY > maths[0] > maths[1] > maths[2] > maths[3]
    assert RELIABILITY < logic[0] < logic[1] < logic[2] < logic[3]
    assert maths[3] < 0.15
    assert logic[3] > 0.85
    assert {(f.right, f.wrong) for f in figures[:4]} == {(5, 0)}
    assert {(f.right, f.wrong) for f in figures[4:]} == {(0, 5)}


def test_a_round_tells_of_it_only_what_is_known() -> None:
    """Not asked; no answer; one that nothing was settled by; and what is no round."""
    rounds: list[Any] = [
        ("math", "a", [OTHER], OVERRULED),
        ("math", "b", [SAYS | {"status": "abstained"}, OTHER], OVERRULED),
        ("math", "c", [SAYS, OTHER], None),
        ("math", "d", [SAYS, OTHER], OVERRULED | {"forced": True}),
        ("math", "e", [SAYS], {"models": [MODEL], "evidence": "self"}),
        ("math", "f", [], None),
    ]
    figures = llm_figures(lake(rounds), MODEL, nobody)
    assert sum(f.rounds for f in figures) == 5
    assert sum(f.asked for f in figures) == 4
    assert [sum(counts) for counts in zip(*[(f.right, f.wrong, f.none) for f in figures], strict=True)] == [0, 0, 1]
    assert figures[0].affinity < RELIABILITY
    assert len({f.affinity for f in figures}) == 1


def test_its_answers_to_the_tasks_are_marked() -> None:
    """Those to branches are not: no verifier knows them."""
    asked: list[Any] = []

    def mark(answers: Sequence[tuple[Mapping[str, str], str]]) -> list[bool]:
        asked.extend(answers)
        return [metadata["id"] == "a" for metadata, _ in answers]

    rounds: list[Any] = [
        ("math", "a", [SAYS, OTHER], OVERRULED),
        ("math", "a:branch-0", [SAYS, OTHER], OVERRULED | {"parent_id": "a"}),
        ("math", "b", [SAYS, OTHER], OVERRULED),
        ("math", "c", [SAYS | {"status": "failed", "text": ""}, OTHER], OVERRULED),
    ]
    figures = llm_figures(lake(rounds), MODEL, mark)
    assert asked == [({"id": "a"}, "7"), ({"id": "b"}, "7")]
    assert sum(f.marked for f in figures) == 2
    assert sum(f.marked_right for f in figures) == 1


def test_the_table_names_a_topic_once() -> None:
    """And shows no share of nothing."""
    empty = LlmFigures(
        topic="math", part=2, rounds=0, asked=0, right=0, wrong=0, none=0, marked=0, marked_right=0, affinity=0.6
    )
    full = LlmFigures(
        topic="math", part=1, rounds=8, asked=4, right=1, wrong=2, none=1, marked=3, marked_right=1, affinity=0.25
    )
    table = Table(*("topic", "quarter", "rounds", "asked in", "share", "agreed with", "verified", "affinity"))
    llm_table((full, empty), table)
    assert [list(column.cells) for column in table.columns] == [
        ["math", ""],
        ["1 of 4", "2 of 4"],
        ["8", "0"],
        ["4", "0"],
        ["50 %", "-"],
        ["1 of 4", "-"],
        ["1 of 3", "-"],
        ["0.25", "0.60"],
    ]
