"""`aureon sql`: a question to the lake, a table or JSON as the answer."""

import argparse
import datetime as dt
import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import duckdb

import one_lake
from flows.commands.arguments import settings_of
from flows.terminal import FAILED, OK, say, show
from schemas.errors import RefusedError

ROWS_AT_A_TIME = 1000
TABLE_ROWS = 60
"""A table on the terminal shows so many rows, the first and the last; --json gives all."""
MOST_ROWS = 10_000
"""DuckDB puts no more into a table, and does not count what is left."""


def main(options: argparse.Namespace) -> int:
    """Run one query and print what it gives."""
    query = sys.stdin.read() if options.query == "-" and sys.stdin is not None else options.query
    if not query.strip() or query == "-":
        raise RefusedError('no query; try: aureon sql "SELECT topic, count(*) FROM one GROUP BY topic"')
    settings = settings_of(options)
    with one_lake.connect(settings.lake_dir, settings.blobs_url, options.as_of) as lake:
        try:
            if options.json:
                _print_json(lake, query)
            else:
                print_table(lake, query)
        except duckdb.Error as error:
            say(f"aureon: SQL: {error}")
            return FAILED
    return OK


def print_table(lake: duckdb.DuckDBPyConnection, query: str) -> None:
    """Print what a query gives, as wide as the terminal is."""
    rows = lake.sql(query)
    if rows is None:  # a statement that gives no rows
        return
    terminal = sys.stdout.isatty()
    # Elsewhere than on a terminal nothing is cut short: lines are no problem there.
    width = shutil.get_terminal_size().columns if terminal else 100_000
    limit = TABLE_ROWS if terminal else 1_000_000
    shown = rows.limit(MOST_ROWS + 1).materialize()  # which runs it once, for the table and the count
    shown.show(max_width=width, max_rows=limit, max_col_width=width)
    if len(shown) > MOST_ROWS:
        say(
            f"aureon: these are of the first {MOST_ROWS:,} rows, and there are more: --json prints all, "
            "\"COPY (SELECT …) TO 'all.parquet'\" writes them"
        )


def _print_json(lake: duckdb.DuckDBPyConnection, query: str) -> None:
    """Print an array, a row at a time: a result of any size fits."""
    cursor = lake.execute(query)
    names = _distinct([column[0] for column in cursor.description or ()])
    separator = "["
    for row in _rows(cursor):
        document = json.dumps(dict(zip(names, map(_plain, row), strict=True)), ensure_ascii=False)
        show(f"{separator}{document}", end="")
        separator = ",\n"
    show("]" if separator != "[" else "[]")


def _rows(cursor: duckdb.DuckDBPyConnection) -> Iterator[Sequence[Any]]:
    while rows := cursor.fetchmany(ROWS_AT_A_TIME):
        yield from rows


def _distinct(names: Sequence[str]) -> list[str]:
    """Number the columns of the same name, so that an object holds them all."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return distinct


def _plain(value: Any) -> Any:
    """Turn a value into what JSON has; it has no NaN and no times."""
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int) else str(value)
