"""Formats change by the rule of `schemas/VERSIONS.md`, and it tells of each."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from flows.lane import Message
from flows.steps import intake
from schemas.decision import read_decision
from schemas.task import encode
from tests.aureon_command import ROOT
from tests.schemas import formats
from tests.schemas.formats import FORMATS, broken, number_of, present

TOLD = (ROOT / "schemas" / "VERSIONS.md").read_text()
KEPT: dict[str, Any] = json.loads(formats.KEPT.read_bytes())
FORMS = {name: kept["form"] for name, kept in KEPT.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_as_it_is_kept(name: str) -> None:
    """What may be changed is written down anew: python -m tests.schemas.formats."""
    now = present()[name]
    if now != KEPT.get(name):
        problems = list(broken(KEPT[name]["form"], now["form"])) if name in KEPT else []
        pytest.fail(f"{name}: run `python -m tests.schemas.formats`; {problems or 'only added to'}")


def test_no_format_is_kept_that_there_is_no_more() -> None:
    """It was written, and somebody may still have it."""
    assert KEPT.keys() == FORMATS.keys()


def test_each_format_is_told_with_its_number() -> None:
    """And where that is."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TOLD.splitlines() if line.startswith("|")]
    told = {row[0]: (row[2], row[3]) for row in rows if len(row) == 4 and row[0] not in ("format", "---")}
    assert told == {
        name: (str(number_of(name)), f"`{made.number}`") if made.number else ("", "") for name, made in FORMATS.items()
    }


def test_whatever_is_named_is_there() -> None:
    """Files and folders, by their paths."""
    for path in re.findall(r"`((?:tests|flows|schemas)/[\w/.]+)`", TOLD):
        assert (ROOT / path).exists(), path


def changed(form: str, change: Callable[[Any], object]) -> list[str]:
    """What the rule says of a change to a format that is kept."""
    now = copy.deepcopy(FORMS[form])
    change(now)
    return list(broken(FORMS[form], now))


def within(form: Any, name: str) -> Any:
    """The fields of a structure in a field that may be null."""
    (found,) = (choice["properties"] for choice in form[0]["properties"][name]["anyOf"] if "properties" in choice)
    return found


ALLOWED: dict[str, tuple[str, Callable[[Any], object]]] = {
    "nothing": ("decision", lambda _: None),
    "a field with a default": ("decision", lambda form: form[0]["properties"].update(mood={"type": "string"})),
    "a field of what is within": (
        "decision",
        lambda form: within(form, "result").update(mood={"type": "string"}),
    ),
    "a place at the end": (
        "call ledger",
        lambda form: form[0]["prefixItems"].append({"type": "string"}),
    ),
    "a column that may be null": ("table rounds", lambda form: form["columns"].append(["mood", "string", True])),
    "a bound": ("head", lambda form: form[0]["properties"]["version"].update(maximum=7)),
}
BROKEN: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "a field is gone": ("decision", lambda form: form[0]["properties"].pop("offset"), "$[0].offset: is gone"),
    "a field is of another type": (
        "head",
        lambda form: form[0]["properties"]["version"].update(type="string"),
        '$[0].version.type: was "integer", is "string"',
    ),
    "another bound": (
        "decision",
        lambda form: form[0]["properties"]["offset"].update(minimum=1),
        "$[0].offset.minimum: was 0, is 1",
    ),
    "a field has another default": (
        "decision",
        lambda form: form[0]["properties"]["version"].update(default=2),
        "$[0].version.default: was 1, is 2",
    ),
    "a field has no default": (
        "head",
        lambda form: (form[0]["properties"].update(mood={}), form[0]["required"].append("mood")),
        "$[0].mood: is new, and has no default",
    ),
    "a field has a default no more": (
        "decision",
        lambda form: form[0]["required"].append("topic"),
        "$[0].topic: its default came or went",
    ),
    "a new word": (
        "decision",
        lambda form: form[0]["properties"]["kind"]["enum"].append("postponed"),
        "$[0].properties.kind.enum",
    ),
    "a field of a task": (
        "task",
        lambda form: form[0]["properties"].update(mood={"type": "string"}),
        "$[0].mood: is new, and who does not know it refuses it",
    ),
    "a field of a task within": (
        "task",
        lambda form: within(form, "origin").update(mood={"type": "string"}),
        "mood: is new, and who does not know it refuses it",
    ),
    "a place within": ("call ledger", lambda form: form[0]["prefixItems"].insert(0, {"type": "string"}), "$[0]"),
    "a column within": (
        "table rounds",
        lambda form: form["columns"].insert(3, ["mood", "string", True]),
        "columns that were there are others",
    ),
    "a column that may not be null": (
        "table rounds",
        lambda form: form["columns"].append(["mood", "string", False]),
        "$.mood: is new, and may not be null",
    ),
    "a table of SQLite": ("index of ids", lambda form: form["sql"].pop(), "$.sql"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_may_be_added_passes(name: str) -> None:
    """Without a new number."""
    assert changed(*ALLOWED[name]) == []


@pytest.mark.parametrize("name", BROKEN)
def test_what_may_not_be_changed_is_found(name: str) -> None:
    """And named."""
    form, change, problem = BROKEN[name]
    assert any(problem.replace(".properties", "") in found for found in changed(form, change)), changed(form, change)


def test_a_number_that_is_raised_is_on_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out where it is the default would mean the newest number to whoever reads it, old or new."""
    monkeypatch.setattr(intake, "WIRE_VERSION", 2)
    marked = encode(intake.mark_of(Message(kafka_topic="tasks.global", offset=1, task_id="a:r0")))
    assert msgspec.json.decode(marked)["version"] == 2
    monkeypatch.setattr(intake, "WIRE_VERSION", 1)
    marked = encode(intake.mark_of(Message(kafka_topic="tasks.global", offset=1, task_id="a:r0")))
    assert b"version" not in marked
    assert read_decision(marked).version == 1
