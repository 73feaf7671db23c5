"""The demo's tasks: real ones, spread evenly, with nothing of the answer in them."""

import sys

import msgspec
import pytest

from flows.demo_tasks import FAMILIES, RIGHT, demo_tasks, verify
from schemas.errors import RefusedError
from schemas.task import read_task


def test_families_and_topics_are_many_and_evenly_spread() -> None:
    """At least ten families over three topics; their shares differ by one task at most."""
    tasks = list(demo_tasks(145, seed=3))
    counts = [sum(t["metadata"]["family"] == family for t in tasks) for family in FAMILIES]
    assert len(FAMILIES) >= 10
    assert len({t["topic"] for t in tasks}) >= 3
    assert max(counts) - min(counts) <= 1
    assert len({t["logical_id"] for t in tasks}) == len(tasks) == 145


def test_each_is_a_task_as_users_write_them() -> None:
    """The schema takes it as it is, and fills in the rest."""
    for task in demo_tasks(28, seed=3):
        descriptor, view = read_task(msgspec.json.encode(task))
        assert descriptor.task_id == f"{task['logical_id']}:r0"
        assert view.prompt == task["payload"]["prompt"]
        assert view.answer_kind == task["payload"]["answer_kind"]
        assert set(task["payload"]) == {"prompt", "answer_kind"}
        assert set(task["metadata"]) == {"family", "seed", "index"}


def test_the_same_seed_gives_the_same_tasks() -> None:
    """And another seed other ones."""
    assert list(demo_tasks(28, seed=3)) == list(demo_tasks(28, seed=3))
    prompts = {t["payload"]["prompt"] for t in demo_tasks(28, seed=3)}
    others = {t["payload"]["prompt"] for t in demo_tasks(28, seed=4)}
    assert len(prompts & others) < 5


def test_the_verifier_tells_right_from_wrong() -> None:
    """By the metadata alone."""
    metadata = {"family": "dice", "seed": "3", "index": "0"}
    assert verify(metadata, "no answer") < RIGHT
    (task,) = (t for t in demo_tasks(14, seed=3) if t["metadata"]["family"] == "count_primes")
    low, high = (int(word) for word in task["payload"]["prompt"].split() if word.isdecimal())
    count = sum(n > 1 and all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(low, high + 1))
    assert verify(task["metadata"], str(count)) >= RIGHT
    assert verify(task["metadata"], str(count + 1)) < RIGHT


def test_without_the_extra_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else of Aureon needs the data sets."""
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(RefusedError, match=r"pip install 'aureon\[demo\]'"):
        next(demo_tasks(1, seed=-1))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """One of the generators writes to stdout."""
    list(demo_tasks(28, seed=5))
    assert capfd.readouterr().out == ""
