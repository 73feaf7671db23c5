"""Rows to Arrow, with the row named that does not fit.

Rows are written as lines of JSON at once, by whoever adds them, and read into columns by Arrow's own reader, on another
thread and without the interpreter: a third of the time that one value after another takes. NumPy's arrays go through
DLPack and buffers, since Arrow's other ways (`asarray`, `pa.array`, `pa.scalar`) import pandas: 0.5 to 2.5 s, 40 MB.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as arrow_json
from msgspec import Struct

from schemas.errors import BadRecordError
from schemas.one import TABLES, arrow_schema

# What Python can hand out again: the years 1 to 9999.
_EARLIEST, _LATEST = -62_135_596_800.0, 253_402_300_799.0

TABLE_OF = {struct: table for table, struct in TABLES.items()}

_encode_lines = msgspec.json.Encoder().encode_lines


def encode_rows(rows: Sequence[Struct]) -> bytes:
    """Write rows of one table as lines of JSON.

    Raises:
        BadRecordError: a row holds a text that is none; the message names it.
    """
    try:
        return _encode_lines(rows)
    except (ValueError, OverflowError) as error:  # lone surrogates, a number beyond 64 bits
        for row in rows:
            try:
                _encode_lines([row])
            except (ValueError, OverflowError):
                raise BadRecordError(f"{_name(type(row), row)}: {error}{_field(row)}") from None
        raise


def record_batch(struct: type[Struct], lines: bytes) -> pa.RecordBatch:
    """Read the lines of one table into columns.

    Raises:
        BadRecordError: a row holds what its column cannot; the message names both.
    """
    layout = _layout(struct)
    reading = arrow_json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    parsing = arrow_json.ParseOptions(explicit_schema=layout.read_as, unexpected_field_behavior="error")
    try:
        table = arrow_json.read_json(pa.BufferReader(lines), reading, parsing).combine_chunks()
        columns = [_column(field, table[field.name].chunk(0)) for field in layout.schema]
    except (TypeError, ValueError, OverflowError):
        _blame(struct, lines)
        raise
    return pa.RecordBatch.from_arrays(columns, schema=layout.schema)


class _Layout(NamedTuple):
    schema: pa.Schema
    read_as: pa.Schema
    """What of it JSON can tell."""


@cache
def _layout(struct: type[Struct]) -> _Layout:
    schema = arrow_schema(struct)
    return _Layout(schema, pa.schema([pa.field(f.name, _read_as(f.type)) for f in schema]))


def _read_as(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.float64()
    return pa.list_(pa.string()) if pa.types.is_list(kind) else kind


def _column(field: pa.Field, values: pa.Array) -> pa.Array:
    if values.null_count and not field.nullable:
        raise ValueError("null where a value is required")
    if pa.types.is_timestamp(field.type):
        seconds = np.from_dlpack(values).astype(np.float64, copy=False)
        if not bool(((seconds >= _EARLIEST) & (seconds <= _LATEST)).all()):
            raise ValueError("not a time in seconds since the epoch")
        micros = np.rint(seconds * 1e6).astype(np.int64)
        return pa.Array.from_buffers(field.type, len(micros), [None, pa.py_buffer(micros)])
    return values if values.type == field.type else pc.cast(values, field.type)


def _blame(struct: type[Struct], lines: bytes) -> None:
    """Name the row and the field that could not be read."""
    layout = _layout(struct)
    for line in lines.splitlines():
        row = msgspec.json.decode(line)
        for field, read_as in zip(layout.schema, layout.read_as, strict=True):
            try:
                _column(field, pa.array([row.get(field.name)], read_as.type))
            except (TypeError, ValueError, OverflowError) as error:
                raise BadRecordError(f"{_name(struct, row)}: {error} - at $.{field.name}") from None


def _name(struct: type[Struct], row: Any) -> str:
    told = row if isinstance(row, dict) else {f: getattr(row, f) for f in ("lane", "decision_offset")}
    return f"{TABLE_OF[struct]}[{told['lane']}]@{told['decision_offset']}"


def _field(row: Struct) -> str:
    """The field that cannot be written."""
    for name in row.__struct_fields__:
        try:
            msgspec.json.encode(getattr(row, name))
        except (ValueError, OverflowError):
            return f" - at $.{name}"
    return ""
