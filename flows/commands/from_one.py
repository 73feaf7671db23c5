"""Tasks drawn from ONE: a row of a query becomes a task, linked to the records that it was made from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from msgspec import Raw

import one_lake
from schemas.errors import BadRecordError, RefusedError
from schemas.task import TaskHead

_ROWS_AT_ONCE = 1000
_OF_TASK = {*TaskHead.__struct_fields__} - {"origin"}
_EXAMPLE = "SELECT topic, 'Is it right? ' || answer AS prompt, [(topic, logical_id)] AS sources FROM one"


def tasks_of(
    lake_dir: Path, blobs: str, query: str, as_of: str | None = None
) -> Iterator[tuple[int, bytes | BadRecordError]]:
    """Run a query over the lake; its rows as tasks, with their numbers from 1.

    Columns with the names of a task's fields are these; `payload` is JSON, or all other columns are the payload.
    `sources` names the records: a list of (topic, logical id).

    Args:
        lake_dir: the lake.
        blobs: the blob store.
        query: in DuckDB's SQL.
        as_of: over the lake as it was.

    Raises:
        RefusedError: the query is wrong, or does not say what the tasks are made from.
    """
    with one_lake.connect(lake_dir, blobs, as_of) as lake:
        try:
            cursor = lake.execute(query)
            names = [column[0] for column in cursor.description or ()]
            if "sources" not in names:
                raise RefusedError(
                    "the query has no column `sources`, which links each task to the records that it is made from: "
                    f"{_EXAMPLE}"
                )
            number = 0
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                for row in rows:
                    number += 1
                    yield number, _task(dict(zip(names, row, strict=True)))
        except duckdb.Error as error:
            raise RefusedError(f"SQL: {error}") from None


def _task(row: Mapping[str, Any]) -> bytes | BadRecordError:
    told = {name: value for name, value in row.items() if value is not None}
    task = {name: value for name, value in told.items() if name in _OF_TASK}
    try:
        task["sources"] = [_source(source) for source in told.get("sources", ())]
        if "payload" in told:
            payload = told["payload"]
            task["payload"] = Raw(payload.encode()) if isinstance(payload, str) else payload
        else:
            task["payload"] = {name: value for name, value in told.items() if name not in _OF_TASK}
        if isinstance(metadata := task.get("metadata"), str):
            task["metadata"] = Raw(metadata.encode())
        return msgspec.json.encode(task)
    except (TypeError, ValueError) as error:
        return BadRecordError(f"no task: {error}")


def _source(source: Any) -> Sequence[str]:
    parts = list(source.values()) if isinstance(source, Mapping) else list(source)
    if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise TypeError(f"expected (topic, logical id) in `sources`, got {source!r}"[:200])
    return parts
