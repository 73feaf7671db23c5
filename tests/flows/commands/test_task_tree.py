"""A task with its rounds and branches, read from the lake."""

import json
from pathlib import Path

import msgspec
import pytest

import one_lake
from connectors.blobs import BlobStore
from flows.commands.task_tree import (
    MAX_TEXT,
    Member,
    Tree,
    find_tree,
    gave_in,
    question_in,
    shortened,
    tree_of,
)
from tests.one_lake.lake_data import branch, dead_letter, lake_writer, record, round_row

HOSTILE = "<script>alert(1)</script>"


def write_family(folder: Path) -> str:
    """A task on two topics; on math it took two rounds, and has two branches: one is dead, one has not begun.

    Returns:
        A large answer, which is in the blob store.
    """
    large = "long " * 2000
    store = BlobStore(str(folder / "blobs"))
    store.create()
    reference = msgspec.json.encode(store.put(large.encode())).decode()
    candidates = [
        {"node": "one", "model": "m", "text": HOSTILE, "latency_s": 0.5},
        {"node": "two", "model": "m", "text": reference},
        {"node": "two", "model": "k", "status": "failed", "error": "HTTP 500"},
    ]
    asked = json.dumps({"prompt": f"What is {HOSTILE}?"})
    provenance = json.dumps({"models": [{"gave_it": True}, {"gave_it": False}, {"gave_it": False}]})
    writer = lake_writer(folder / "lake")
    writer.add(
        [
            round_row(0, 0, logical_id="a", kind="next_round", candidates=json.dumps(candidates[:2])),
            record(0, 1, logical_id="a", answer=HOSTILE, payload=asked, provenance=provenance, round_index=1),
            branch(0, 1, 0, topic="law", logical_id="a:branch-0", parent_id="a"),
            branch(0, 1, 1, topic="law", logical_id="a:branch-1", parent_id="a"),
            round_row(
                *(0, 1), logical_id="a", round_index=1, answer=HOSTILE, candidates=json.dumps(candidates), flags=["odd"]
            ),
            dead_letter(0, 2, topic="law", logical_id="a:branch-0", payload=asked),
            round_row(0, 2, topic="law", logical_id="a:branch-0", kind="dead", answer=None),
            record(0, 3, topic="geo", logical_id="a", answer="elsewhere"),
            round_row(0, 3, topic="geo", logical_id="a"),
            round_row(0, 4, logical_id="a:branch", answer="of another task"),
        ]
    )
    writer.flush()
    writer.close()
    return large


def found(folder: Path, topic: str, logical_id: str) -> Tree:
    """Look for what is there."""
    with one_lake.connect(folder / "lake", str(folder / "blobs")) as lake:
        tree = find_tree(lake, topic, logical_id)
    assert tree is not None
    return tree


@pytest.mark.parametrize("topic, logical_id", [("math", "a"), ("law", "a:branch-0"), ("law", "a:branch-1")])
def test_a_family_is_whole_whichever_of_it_is_asked_for(tmp_path: Path, topic: str, logical_id: str) -> None:
    """From its root on, with what was said in each round; a task of the same id on another topic is none of it."""
    large = write_family(tmp_path)
    tree = found(tmp_path, topic, logical_id)
    assert (tree.tasks, tree.cut) == (3, False)
    root = tree.root
    assert (root.topic, root.logical_id, root.status, root.answer) == ("math", "a", "converged", HOSTILE)
    assert root.question == f"What is {HOSTILE}?"
    assert [(r.round_index, r.kind, len(r.answers)) for r in root.rounds] == [(0, "next_round", 2), (1, "converged", 3)]
    assert [a.gave_it for a in root.rounds[0].answers] == [None, None]
    last = root.rounds[1]
    assert [(a.node, a.gave_it, a.status) for a in last.answers] == [
        ("one", True, "ok"),
        ("two", False, "ok"),
        ("two", False, "failed"),
    ]
    assert (last.answers[0].text, last.answers[1].text, last.flags) == (HOSTILE, shortened(large), ["odd"])
    assert [(b.logical_id, b.status, len(b.rounds)) for b in root.branches] == [
        ("a:branch-0", "dead", 1),
        ("a:branch-1", "pending", 0),
    ]
    assert [t.asked_for for t in (root, *root.branches)] == [
        (t.topic, t.logical_id) == (topic, logical_id) for t in (root, *root.branches)
    ]


def test_the_same_id_on_another_topic_is_another_task(tmp_path: Path) -> None:
    """With a family of its own."""
    write_family(tmp_path)
    tree = found(tmp_path, "geo", "a")
    assert (tree.tasks, tree.root.answer, len(tree.root.rounds)) == (1, "elsewhere", 1)


@pytest.mark.parametrize("topic, logical_id", [("math", "b"), ("chess", "a"), ("math", "a:branch-0"), ("'", "'")])
def test_what_is_not_there_is_not_found(tmp_path: Path, topic: str, logical_id: str) -> None:
    """Nor what is on another topic."""
    write_family(tmp_path)
    with one_lake.connect(tmp_path / "lake", str(tmp_path / "blobs")) as lake:
        assert find_tree(lake, topic, logical_id) is None


def test_a_family_of_which_some_are_missing_is_told_as_such() -> None:
    """And one that goes round in a circle ends."""
    circle = [Member("t", "a", "t", "b", "pending", None), Member("t", "b", "t", "a", "pending", None)]
    tree = tree_of(circle, {}, {}, ("t", "a"), cut=True)
    assert (tree.tasks, tree.cut) == (2, True)
    itself = tree_of([Member("t", "a", "t", "a", "pending", None)], {}, {}, ("t", "a"), cut=False)
    assert (itself.tasks, itself.root.branches) == (1, [])


def test_the_tenth_branch_comes_after_the_ninth() -> None:
    """By number, not by letter."""
    ids = [f"a:branch-{n}" for n in range(12)]
    members = [Member("t", "a", None, None, "pending", None), *(Member("t", i, "t", "a", "dead", None) for i in ids)]
    tree = tree_of(members, {}, {}, ("t", ids[3]), cut=False)
    assert [b.logical_id for b in tree.root.branches] == ids


@pytest.mark.parametrize(
    "payload, question",
    [
        ('{"prompt":"Why?"}', "Why?"),
        ('{"messages":[{"role":"system","content":"Be brief"},{"role":"user","content":"Why?"}]}', "Why?"),
        ('{"messages":[]}', None),
        ('{"messages":[3]}', None),
        ('{"prompt":3}', None),
        ("[]", None),
        ("no JSON", None),
    ],
)
def test_the_question_of_a_payload_is_found(payload: str, question: str | None) -> None:
    """Or none."""
    assert question_in(payload) == question


@pytest.mark.parametrize("provenance", ["no JSON", "[]", "{}", '{"models":3}', '{"models":[3]}', "null"])
def test_a_provenance_of_another_version_tells_nothing(provenance: str) -> None:
    """And is no error."""
    assert gave_in(provenance) == []


def test_a_long_text_is_cut_and_that_is_told() -> None:
    """With how much is missing."""
    assert shortened("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert shortened("x" * (MAX_TEXT + 1234)).endswith("x… (1,234 characters more)")


def test_answers_of_another_version_are_left_out(tmp_path: Path) -> None:
    """The rest of the task is shown."""
    writer = lake_writer(tmp_path / "lake")
    writer.add([record(0, 0, logical_id="a"), round_row(0, 0, logical_id="a", candidates='[{"speaker": "one"}]')])
    writer.flush()
    writer.close()
    assert [(r.answer, r.answers) for r in found(tmp_path, "math", "a").root.rounds] == [("2", [])]
