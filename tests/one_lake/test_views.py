"""What is made of the lake's tables: how models did, how they agree, what was spent, what a record is worth."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import one_lake
from tests.one_lake.lake_data import branch, dead_letter, lake_writer, record, round_row


def said(node: str, text: str, **more: Any) -> dict[str, Any]:
    """One candidate."""
    return {"node": node, "model": f"m{node}", "text": text, "tokens_out": 10, "cost": 0.5, "latency_s": 1.0, **more}


def round_of(offset: int, candidates: Sequence[dict[str, Any]], leading: set[int], **changes: Any) -> list[Any]:
    """A converged round with its record."""
    models = [
        {"node": c["node"], "model": c["model"], "gave_it": place in leading} for place, c in enumerate(candidates)
    ]
    return [
        record(0, offset, provenance=json.dumps({"software": "x", "models": models}), **changes),
        round_row(0, offset, candidates=json.dumps(candidates)),
    ]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Three rounds of two or three models, and two that did not converge."""
    writer = lake_writer(tmp_path)
    writer.add(round_of(0, [said("a", "2"), said("b", "2.0"), said("c", "7")], {0, 1}))
    writer.add(round_of(1, [said("a", "3"), said("b", "9"), said("c", "9")], {0}, forced=True, evidence="self"))
    writer.add(round_of(2, [said("a", "", status="abstained"), said("b", "4")], {1}, evidence="verifier"))
    writer.add([round_row(0, 3, kind="next_round", candidates=json.dumps([said("a", "5")]))])
    writer.add([dead_letter(0, 4), round_row(0, 4, kind="dead", cost=2.0)])
    writer.flush()
    writer.close()
    return tmp_path


def ask(lake: Path, query: str) -> list[Any]:
    """The rows of a query."""
    with one_lake.connect(lake) as connection:
        return connection.sql(query).fetchall()


def test_answers_tell_what_became_of_each(lake: Path) -> None:
    """Who gave the answer of the record; unknown where there is none."""
    rows = ask(lake, "SELECT decision_offset, node, status, text, gave_it FROM answers ORDER BY ALL")
    assert rows == [
        (0, "a", "ok", "2", True),
        (0, "b", "ok", "2.0", True),
        (0, "c", "ok", "7", False),
        (1, "a", "ok", "3", True),
        (1, "b", "ok", "9", False),
        (1, "c", "ok", "9", False),
        (2, "a", "abstained", "", None),
        (2, "b", "ok", "4", True),
        (3, "a", "ok", "5", None),
    ]


def test_nodes_tell_how_each_model_did(lake: Path) -> None:
    """By topic."""
    query = "SELECT node, model, asked, answered, abstained, gave_the_answer, tokens, cost FROM nodes ORDER BY node"
    assert ask(lake, query) == [
        ("a", "ma", 4, 3, 1, 1.0, 40, 2.0),
        ("b", "mb", 3, 3, 0, pytest.approx(2 / 3), 30, 1.5),
        ("c", "mc", 2, 2, 0, 0.0, 20, 1.0),
    ]


def test_a_call_that_was_never_made_is_not_told_as_asked_or_failed(tmp_path: Path) -> None:
    """As where the budget was spent, or nobody counted on its node."""
    writer = lake_writer(tmp_path)
    never, failed = ({"node": "a", "model": "ma", "status": "failed", "error": "x", "tries": n} for n in (0, 3))
    writer.add(round_of(0, [said("a", "2"), never, failed], {0}))
    writer.flush()
    writer.close()
    assert ask(tmp_path, "SELECT asked, not_asked, answered, failed FROM nodes") == [(2, 1, 1, 1)]


def test_agreement_counts_pairs(lake: Path) -> None:
    """Of the rounds that converged; two that are wrong together agree if they say the same."""
    query = "SELECT one_model, other_model, together, agreed, share FROM agreement ORDER BY ALL"
    assert ask(lake, query) == [
        ("ma on a", "mb on b", 2, 1, 0.5),
        ("ma on a", "mc on c", 2, 0, 0.0),
        ("mb on b", "mc on c", 2, 1, 0.5),
    ]


def test_costs_are_those_of_all_rounds(lake: Path) -> None:
    """Also of those that came to nothing."""
    query = "SELECT rounds, records, dead_letters, calls, tokens, cost, cost_a_record FROM costs"
    assert ask(lake, query) == [(5, 3, 1, 10, 350, pytest.approx(2.04), pytest.approx(2.04 / 3))]


def test_what_the_gate_refused_is_no_record(lake: Path) -> None:
    """Its round says what was decided; what became of it is a dead letter."""
    writer = lake_writer(lake)
    writer.add([dead_letter(0, 5, reason="quality_gate"), round_row(0, 5)])
    writer.add([dead_letter(0, 6, reason="rejected"), round_row(0, 6, kind="dead")])
    writer.flush()
    writer.close()
    query = "SELECT rounds.kind, outcomes.kind FROM rounds JOIN outcomes USING (lane, decision_offset) "
    assert ask(lake, f"{query} WHERE decision_offset >= 5 ORDER BY decision_offset") == [
        ("converged", "dead"),
        ("dead", "dead"),
    ]
    assert ask(lake, "SELECT records, dead_letters FROM costs") == [(3, 3)]


def test_another_question_under_an_id_says_nothing_of_it(lake: Path) -> None:
    """It is no end of the one that has the id, which goes on."""
    named = {"logical_id": "asked"}
    writer = lake_writer(lake)
    writer.add([round_row(0, 5, kind="next_round", **named)])
    writer.add([dead_letter(0, 6, reason="id_conflict", **named), round_row(0, 6, kind="dead", **named)])
    writer.flush()
    assert ask(lake, "SELECT status FROM lineage('asked')") == [("pending",)]
    writer.add([dead_letter(0, 7, reason="rejected", **named), round_row(0, 7, kind="dead", **named)])
    writer.flush()
    writer.close()
    assert ask(lake, "SELECT status FROM lineage('asked')") == [("dead",)]


def test_the_weight_of_a_record_falls_with_what_it_rests_on(lake: Path) -> None:
    """And with descendants that failed."""
    writer = lake_writer(lake)
    writer.add([record(0, 5, evidence="verifier"), round_row(0, 5)])
    writer.add([branch(0, 5, 0), branch(0, 5, 1), branch(0, 5, 2)])
    child = {"topic": "coding", "parent_topic": "math", "parent_id": "task-0-5"}
    writer.add([record(0, 6, logical_id="task-0-5:branch-0", **child), round_row(0, 6)])
    writer.add([dead_letter(0, 7, topic="coding", logical_id="task-0-5:branch-1"), round_row(0, 7, kind="dead")])
    sources = json.dumps([["math", "task-0-5"], ["math", "task-0-2"]])
    writer.add([record(0, 8, logical_id="made", sources=sources), round_row(0, 8)])
    writer.flush()
    writer.close()
    query = "SELECT logical_id, descendants_good, descendants_ended, weight FROM weights ORDER BY logical_id"
    found = {row[0]: row[1:] for row in ask(lake, query)}
    assert found["task-0-1"] == (0, 0, 0.5 * 0.5 * 0.5), "forced, on one model's word"
    assert found["task-0-2"] == (1, 1, 0.5 * 1.0)
    assert found["task-0-5"] == (2, 3, pytest.approx(0.5 * 1.0 * 3 / 4))
    assert ask(lake, "FROM sources ORDER BY source_id") == [
        ("math", "made", "math", "task-0-2"),
        ("math", "made", "math", "task-0-5"),
    ]


def test_a_descendant_that_was_sent_again_counts_once(tmp_path: Path) -> None:
    """As what its last life came to."""
    writer = lake_writer(tmp_path)
    writer.add([record(0, 0), round_row(0, 0), *(branch(0, 0, index) for index in range(3))])
    first, second, third = (dict[str, Any](topic="coding", logical_id=f"task-0-0:branch-{index}") for index in range(3))
    died = [first, second, second, third, third | {"generation": 1}]
    for offset, child in enumerate(died, 1):
        writer.add([dead_letter(0, offset, **child), round_row(0, offset, kind="dead", **child)])
    for offset, child in enumerate((first, second | {"forced": True}), 6):
        again = child | {"generation": 1}
        writer.add([record(0, offset, **again), round_row(0, offset, **again)])
    writer.flush()
    writer.close()
    query = "SELECT descendants_good, descendants_ended FROM weights WHERE logical_id = 'task-0-0'"
    assert ask(tmp_path, query) == [(1, 3)]
