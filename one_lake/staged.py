"""Parquet files in the folder of a table that no log entry names yet: nobody reads them, and they are not vacuumed."""

import contextlib
import fcntl
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, RemoveAction

from connectors.whole_files import sync
from one_lake import tables

# Columns of few different values; for the others a dictionary costs time and saves nothing.
_DICTIONARY = {
    "cluster",
    "evidence",
    "kafka_topic",
    "kind",
    "parent_topic",
    "policy",
    "reason",
    "root_topic",
    "software",
    "supervision",
    "topic",
}


class StagedFile:
    """One file that is being written.

    It is locked, shared, until it is logged or this process ends: whoever can lock it alone may delete it.

    Args:
        folder: of its table.
        schema: of its rows.
        options: more for the writer of the Parquet file.
    """

    def __init__(self, folder: Path, schema: pa.Schema, **options: Any) -> None:
        self.path = folder / f"part-{uuid.uuid4()}.parquet"
        self.sha256 = ""
        """Of the finished file."""
        self.rows = 0
        self._lock = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        with contextlib.suppress(OSError):  # a file system without locks: there the age alone protects it
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        self._writer = pq.ParquetWriter(
            self.path,
            schema,
            compression="zstd",
            use_dictionary=[name for name in schema.names if name in _DICTIONARY],
            **options,
        )

    def write(self, batch: pa.RecordBatch) -> None:
        """Write one row group."""
        self._writer.write_batch(batch)
        self.rows += batch.num_rows

    def finish(self) -> None:
        """Bring the file and its name to the disk."""
        self._writer.close()
        sync(self.path)
        sync(self.path.parent)
        self.sha256 = tables.sha256_of(self.path)

    def discard(self) -> None:
        """Let it be gone."""
        with contextlib.suppress(Exception):
            self._writer.close()
        self.path.unlink(missing_ok=True)
        self.release()

    @property
    def is_held(self) -> bool:
        """Whether nobody has let go of it."""
        return self._lock >= 0

    def release(self) -> None:
        """Let go of it: it is in the log."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def action(self, least: dict[str, Any], most: dict[str, Any], *, data_change: bool) -> AddAction:
        """What the log says of it.

        Args:
            least: by column, the least value.
            most: by column, the greatest value.
            data_change: it brings rows that were not there.
        """
        stats = {
            "numRecords": self.rows,
            "minValues": least,
            "maxValues": most,
            "nullCount": dict.fromkeys(least, 0),
        }
        return AddAction(
            path=self.path.name,
            size=self.path.stat().st_size,
            partition_values={},
            modification_time=time.time_ns() // 1_000_000,
            data_change=data_change,
            stats=json.dumps(stats),
        )


class Gathered:
    """One file of rows in any order, with what the log says of it.

    Args:
        file: where they go.
        data_change: they are rows that were not in the table.
    """

    def __init__(self, file: StagedFile, *, data_change: bool) -> None:
        self.file = file
        self._data_change = data_change
        self.least: dict[str, Any] = {}
        self.most: dict[str, Any] = {}

    def take(self, batch: pa.RecordBatch) -> None:
        """Write one row group."""
        self.file.write(batch)
        for name in ("lane", "decision_offset"):
            values = np.from_dlpack(batch[name])
            self.least[name] = min(int(values.min()), self.least.get(name, int(values.min())))
            self.most[name] = max(int(values.max()), self.most.get(name, int(values.max())))

    def end(self) -> AddAction:
        """Finish it; returns what is to be logged."""
        self.file.finish()
        return self.file.action(self.least, self.most, data_change=self._data_change)


def removal(name: str, size: int, *, data_change: bool) -> RemoveAction:
    """What the log says of a file that is taken out now; `size` in bytes."""
    return RemoveAction(
        path=name,
        data_change=data_change,
        deletion_timestamp=time.time_ns() // 1_000_000,
        size=size,
        partition_values={},
    )


def cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Give rows that DuckDB returned the schema of their table."""
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
