"""Rows to Arrow, each with its hash, and with the row named that does not fit.

Rows are written as lines of JSON at once, by whoever adds them, and read into columns by Arrow's own reader, on another
thread and without the interpreter: a third of the time that one value after another takes. NumPy's arrays go through
DLPack and buffers, since Arrow's other ways (`asarray`, `pa.array`, `pa.scalar`) import pandas: 0.5 to 2.5 s, 40 MB.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.json as arrow_json
from msgspec import Struct

from schemas.errors import BadRecordError
from schemas.one import ROW_HASH, TABLES, arrow_schema

# What Python can hand out again: the years 1 to 9999.
_EARLIEST, _LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999

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


def row_hashes(lines: bytes) -> list[str]:
    """Digest each row: the sha256, in hex, of its line as `encode_rows` writes it, without the end of the line."""
    return [hashlib.sha256(line).hexdigest() for line in lines.splitlines()]


def lines_of(struct: type[Struct], rows: pa.RecordBatch) -> list[bytes]:
    """Write rows that were read from the lake as the lines that they were written as.

    Raises:
        UnicodeDecodeError: a text is none.
    """
    columns = [_plain_values(rows[name]) for name in _layout(struct).names]
    return _encode_lines(list(map(_plain(struct), *columns))).splitlines()


def values_of(rows: pa.Table, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Read columns that were read from the lake as the values that their structure has, row by row."""
    return zip(*[_plain_values(rows[name]) for name in names], strict=True)


def _plain_values(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    if pa.types.is_timestamp(values.type):
        chunks = [chunk.view(pa.int64()) for chunk in chunks]
    return [value for chunk in chunks for value in chunk.to_pylist()]


@cache
def _plain(struct: type[Struct]) -> type[Struct]:
    """The same structure without its hash, made from values in order: a tenth of the time that names take."""
    fields = [
        (f.name, Any) if f.default is msgspec.NODEFAULT else (f.name, Any, f.default)
        for f in msgspec.structs.fields(struct)
        if f.name != ROW_HASH
    ]
    return msgspec.defstruct(struct.__name__, fields, omit_defaults=True, gc=False)


def record_batch(struct: type[Struct], lines: bytes) -> pa.RecordBatch:
    """Read the lines of one table into columns, and add the column of their hashes, if it has one.

    Raises:
        BadRecordError: a row holds what its column cannot; the message names both.
    """
    layout = _layout(struct)
    reading = arrow_json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    parsing = arrow_json.ParseOptions(explicit_schema=layout.read_as, unexpected_field_behavior="error")
    try:
        table = arrow_json.read_json(pa.BufferReader(lines), reading, parsing).combine_chunks()
        columns = [_column(field, table[field.name].chunk(0)) for field in layout.told]
    except (TypeError, ValueError, OverflowError):
        _blame(struct, lines)
        raise
    if layout.hash_at >= 0:
        columns.insert(layout.hash_at, _hash_column(row_hashes(lines)))
    return pa.RecordBatch.from_arrays(columns, schema=layout.schema)


class _Layout(NamedTuple):
    schema: pa.Schema
    names: list[str]
    """Of the columns that the lines tell."""
    told: list[pa.Field]
    """The columns that the lines tell: all but the hash."""
    read_as: pa.Schema
    """What of them JSON can tell."""
    hash_at: int


@cache
def _layout(struct: type[Struct]) -> _Layout:
    schema = arrow_schema(struct)
    told = [field for field in schema if field.name != ROW_HASH]
    read_as = pa.schema([pa.field(f.name, _read_as(f.type)) for f in told])
    return _Layout(schema, [field.name for field in told], told, read_as, schema.get_field_index(ROW_HASH))


def _hash_column(hashes: Sequence[str]) -> pa.StringArray:
    offsets = np.arange(len(hashes) + 1, dtype=np.int32) * 64
    return pa.StringArray.from_buffers(len(hashes), pa.py_buffer(offsets), pa.py_buffer("".join(hashes).encode()))


def _read_as(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.int64()
    return pa.list_(pa.string()) if pa.types.is_list(kind) else kind


def _column(field: pa.Field, values: pa.Array) -> pa.Array:
    if values.null_count and not field.nullable:
        raise ValueError("null where a value is required")
    if pa.types.is_timestamp(field.type):
        micros = np.from_dlpack(values)
        if not bool(((micros >= _EARLIEST) & (micros <= _LATEST)).all()):
            raise ValueError("not a time in microseconds since the epoch")
        return values.view(field.type)
    if not pa.types.is_list(field.type):
        return values
    # JSON's lists are of what may be null; `pyarrow.compute`, which casts, takes 0.15 s of each start
    elements = values.values
    if elements.null_count:
        raise ValueError("null in a list")
    return pa.Array.from_buffers(
        field.type, len(values), values.buffers()[:2], values.null_count, values.offset, [elements]
    )


def _blame(struct: type[Struct], lines: bytes) -> None:
    """Name the row and the field that could not be read."""
    layout = _layout(struct)
    for line in lines.splitlines():
        row = msgspec.json.decode(line)
        for field, read_as in zip(layout.told, layout.read_as, strict=True):
            try:
                _column(field, pa.array([row.get(field.name)], read_as.type))
            except (TypeError, ValueError, OverflowError) as error:
                raise BadRecordError(f"{_name(struct, row)}: {error} - at $.{field.name}") from None


def _name(struct: type[Struct], row: Any) -> str:
    told = row if isinstance(row, dict) else {f: getattr(row, f) for f in ("lane", "decision_offset")}
    return f"{TABLE_OF.get(struct, struct.__name__)}[{told['lane']}]@{told['decision_offset']}"


def _field(row: Struct) -> str:
    """The field that cannot be written."""
    for name in row.__struct_fields__:
        try:
            msgspec.json.encode(getattr(row, name))
        except (ValueError, OverflowError):
            return f" - at $.{name}"
    return ""
