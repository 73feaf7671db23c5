"""Supervision from a file, `supervision.toml`: which policies, in which order, and what is wrong with it.

[[policy]]
use = "insults"            # a built-in by name, or `module:callable` of one's own
action = "reject"
topics = ["support"]       # left out: everywhere
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from connectors.toml_file import about_fields, parse_toml, place_and_problem, read_file
from flows.settings import import_object, make_object
from flows.supervision.bias import Bias
from flows.supervision.case import Rule
from flows.supervision.course import Budget, Contradiction, TopicHealth
from flows.supervision.form import AllowList, AnswerFormat, EmptyAnswer, Repetition, RunawayLength, ScoreSanity
from flows.supervision.injection import Injection
from flows.supervision.insults import Insults
from flows.supervision.safety import Safety
from flows.supervision.supervisor import Entry, Supervisor
from schemas.decision import FindingAction
from schemas.errors import RefusedError

BUILT_IN: Final[Mapping[str, type[Rule]]] = {
    rule.USE: rule
    for rule in (
        AllowList,
        ScoreSanity,
        EmptyAnswer,
        RunawayLength,
        AnswerFormat,
        Safety,
        Injection,
        Insults,
        Bias,
        Repetition,
        Contradiction,
        Budget,
        TopicHealth,
    )
}
DEFAULT: Final[tuple[type[Rule], ...]] = (
    ScoreSanity,
    EmptyAnswer,
    RunawayLength,
    AnswerFormat,
    Safety,
    Injection,
    Insults,
    Bias,
    Repetition,
    Contradiction,
)
"""What is asked where no file says otherwise."""


def built_in_supervisor() -> Supervisor:
    """Give the policies that are asked where no file says otherwise."""
    return Supervisor([Entry(rule()) for rule in DEFAULT])


def read_supervision(path: Path) -> Supervisor:
    """Read the file, and make its policies.

    Raises:
        RefusedError: it cannot be read, or something in it is wrong; names file, policy and field.
    """
    return read_file(path, parse_supervision, "AUREON_SUPERVISION")


def parse_supervision(text: bytes) -> Supervisor:
    """Read the text of the file, and make its policies.

    Raises:
        RefusedError: something in it is wrong; names policy and field.
    """
    document = parse_toml(text)
    if unknown := document.keys() - {"policy"}:
        raise RefusedError(f"unknown field {min(unknown)}; there are: policy")
    tables = document.get("policy")
    if not isinstance(tables, list) or not tables:
        raise RefusedError("names no policy; each is a table [[policy]], with at least a `use`")
    return Supervisor([_entry(table, place) for place, table in enumerate(tables, 1)])


def _entry(table: Any, place: int) -> Entry:
    use = table.get("use") if isinstance(table, dict) else None
    if not isinstance(use, str) or not use:
        raise RefusedError(f"policy {place}: needs use, a built-in or module:callable; {_there_are()}")
    given = {key: value for key, value in table.items() if key not in ("use", "topics")}
    where = f"policy {place} ({use})"
    topics = table.get("topics", [])
    if not isinstance(topics, list) or not all(isinstance(t, str) and t for t in topics):
        raise RefusedError(f'{where}: topics: Expected a list of names, as in topics = ["math"]')
    try:
        policy = _built_in(BUILT_IN[use], given) if use in BUILT_IN else _own(use, given)
    except (RefusedError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise RefusedError(f"{where}: {error}") from None
    return Entry(policy, tuple(topics))


def _built_in(rule: type[Rule], given: Mapping[str, Any]) -> Rule:
    if "cap" in given and given.get("action") != "cap":
        raise RefusedError('cap: it is for action = "cap"')
    try:
        return msgspec.convert(given, rule)
    except msgspec.ValidationError as error:
        raise RefusedError(_told(error, rule)) from None


def _told(error: msgspec.ValidationError, rule: type[Rule]) -> str:
    """Say of a validation error of which field it is, in the file's words."""
    path, problem = place_and_problem(error)
    problem = about_fields(problem, ("use", "topics", *rule.__struct_fields__), ", ".join(get_args(FindingAction)))
    return f"{path}: {problem}".removeprefix(": ")


def _own(use: str, given: Mapping[str, Any]) -> Any:
    if ":" not in use:
        raise RefusedError(f"use: {use!r} is no built-in policy, and no module:callable; {_there_are()}")
    make: Callable[..., Any] = import_object(use, "use")
    return make_object(make, use, "examine", **given)


def _there_are() -> str:
    return f"there are: {', '.join(BUILT_IN)}"
