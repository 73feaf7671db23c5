"""What ONE expects of its records: derived from their schema, and written here; in the form of Great Expectations.

An expectation that judges each row by itself decides where the row goes. One that is over many rows only raises an
alert: after a crash a batch is cut differently, and where a row goes must not depend on what else is in its batch.
"""

import types
import typing
from typing import Any, Literal

import msgspec
from msgspec import Meta, Struct

from schemas.one import ROW_HASH, Record

Configuration = dict[str, Any]
"""An expectation: `{"type": "expect_…", "kwargs": {…}}`."""

WRITTEN: tuple[Configuration, ...] = (
    {
        "type": "expect_column_pair_values_a_to_be_greater_than_b",
        "kwargs": {"column_A": "converged_at", "column_B": "started_at", "or_equal": True},
    },
    {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "payload", "regex": r"^\s*\{"}},
    {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "answer"}},
)
"""Of a row."""

ALERTS: tuple[Configuration, ...] = (
    {"type": "expect_compound_columns_to_be_unique", "kwargs": {"column_list": ["topic", "logical_id"]}},
    {
        "type": "expect_column_values_to_be_in_set",
        "kwargs": {"column": "forced", "value_set": [False], "mostly": 0.5},
    },
)
"""Of a batch: no task has two records; not most of them were forced."""
FEWEST = 20
"""Records of which a share (`mostly`) is told; of two, one is half."""


def suite() -> list[Configuration]:
    """All expectations of a record, those derived from its schema first."""
    return [*derived(Record), *WRITTEN, *ALERTS]


def derived(struct: type[Struct]) -> list[Configuration]:
    """What the schema of a table says of its columns: which have a value, within which bounds, of which form."""
    hints = typing.get_type_hints(struct, include_extras=True)
    found: list[Configuration] = []
    for field in msgspec.structs.fields(struct):
        if field.name != ROW_HASH:
            found += _of_column(field.name, hints[field.name])
    return found


def _of_column(name: str, hint: Any) -> list[Configuration]:
    column: dict[str, Any] = {"column": name}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (arm for arm in typing.get_args(hint) if arm is not type(None))
    if typing.get_origin(hint) is Literal:
        kwargs = {**column, "value_set": list(typing.get_args(hint))}
        return [{"type": "expect_column_values_to_be_in_set", "kwargs": kwargs}]
    found: list[Configuration] = []
    for meta in getattr(hint, "__metadata__", ()):
        if not isinstance(meta, Meta):
            continue
        if meta.ge is not None or meta.le is not None:
            # `typing` keeps one of two hints that are equal, so a share may have the 0 of another module's
            number: Any = float if typing.get_args(hint)[0] is float else int
            bounds = {
                "min_value": None if meta.ge is None else number(meta.ge),
                "max_value": None if meta.le is None else number(meta.le),
            }
            found.append({"type": "expect_column_values_to_be_between", "kwargs": {**column, **bounds}})
        if meta.min_length is not None:
            kwargs = {**column, "min_value": meta.min_length}
            found.append({"type": "expect_column_value_lengths_to_be_between", "kwargs": kwargs})
        if meta.pattern is not None:
            found.append({"type": "expect_column_values_to_match_regex", "kwargs": {**column, "regex": meta.pattern}})
    return found
