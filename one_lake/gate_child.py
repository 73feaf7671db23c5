"""What the quality gate's own process does: Great Expectations over batches of records, from standard input.

In: the length of a batch (8 bytes, little endian), then the batch as a stream of Arrow's IPC. Out: a line of JSON a
batch, `one_lake.gate.Judged`; the first line says that it is ready. It ends when its input does.
"""

import gc
import json
import os
import sys
from collections.abc import Iterable
from typing import Any, BinaryIO

os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations as gx
import msgspec
import pyarrow as pa
from great_expectations.expectations.expectation import (
    ColumnMapExpectation,
    ColumnPairMapExpectation,
    MulticolumnMapExpectation,
)
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

from one_lake.expectations import FEWEST, Configuration
from one_lake.gate import Judged, Refused

# These are over each row and yet of all of them.
_OF_MANY = (
    "expect_column_values_to_be_unique",
    "expect_compound_columns_to_be_unique",
    "expect_column_values_to_be_increasing",
    "expect_column_values_to_be_decreasing",
)
_NUMBER = "number"
_MAX_TOLD = 200
"""Characters of a value that is told."""


def judges_rows(configuration: Configuration, expectation: Any) -> bool:
    """Tell whether an expectation judges each row by itself."""
    is_map = isinstance(expectation, ColumnMapExpectation | ColumnPairMapExpectation | MulticolumnMapExpectation)
    mostly = configuration["kwargs"].get("mostly", 1)
    return is_map and mostly == 1 and configuration["type"] not in _OF_MANY


class Judge:
    """Runs the expectations.

    Args:
        configurations: what is expected.

    Raises:
        Exception: of Great Expectations; one of them is none.
    """

    def __init__(self, configurations: list[Configuration]) -> None:
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}  # type: ignore[assignment]
        self._configurations = configurations
        self._judges_rows = [judges_rows(c, self._expectation(number)) for number, c in enumerate(configurations)]
        self._all = self._suite(range(len(configurations)))
        asset = context.data_sources.add_pandas("batches").add_dataframe_asset("records")
        self._batches = asset.add_batch_definition_whole_dataframe("batch")

    def judge(self, rows: pa.RecordBatch) -> Judged:
        """Tell which rows are refused, and what there is to warn of."""
        batch = self._batches.get_batch(batch_parameters={"dataframe": rows.to_pandas()})
        all_found = batch.validate(self._all, result_format="BOOLEAN_ONLY").results
        failed = [_number(found) for found in all_found if not found.success]
        if not failed:
            return Judged(refused=[], alerts=[])
        # to be told which rows, and what they hold, takes as long again an expectation
        result = batch.validate(self._suite(failed), result_format="COMPLETE")
        refused: dict[int, Refused] = {}
        alerts: list[str] = []
        for found in sorted(result.results, key=_number):
            configuration, of_rows = self._configurations[_number(found)], self._judges_rows[_number(found)]
            name = _name(configuration)
            if found.exception_info and _raised(found.exception_info):
                alerts.append(f"{name}: {_raised(found.exception_info)}"[:_MAX_TOLD])
            elif found.success or (rows.num_rows < FEWEST and configuration["kwargs"].get("mostly", 1) < 1):
                continue
            elif not of_rows:
                alerts.append(f"{name}: {_told(found.result)}")
            else:
                places = found.result.get("unexpected_index_list") or []
                values = found.result.get("unexpected_list") or []
                for place, value in zip(places, values, strict=False):
                    refused.setdefault(int(place), Refused(int(place), f"{name}: got {value!r}"[: 2 * _MAX_TOLD]))
        return Judged(refused=sorted(refused.values(), key=lambda r: r.row), alerts=alerts)

    def _suite(self, numbers: Iterable[int]) -> gx.ExpectationSuite:
        return gx.ExpectationSuite(name="records", expectations=[self._expectation(number) for number in numbers])

    def _expectation(self, number: int) -> Any:
        # results come in an order of their own
        return ExpectationConfiguration(**self._configurations[number], meta={_NUMBER: number}).to_domain_obj()


def _number(found: Any) -> int:
    """Which of the configurations a result is of."""
    return int(found.expectation_config.meta[_NUMBER])


def _raised(info: Any) -> str:
    """The message of an exception, wherever Great Expectations put it."""
    told = info if "raised_exception" in info else next(iter(info.values()), {})
    return str(told.get("exception_message") or "") if told.get("raised_exception") else ""


def _name(configuration: Configuration) -> str:
    kwargs = ", ".join(f"{name}={value!r}" for name, value in configuration["kwargs"].items() if value is not None)
    return f"{configuration['type']}({kwargs})"


def _told(result: Any) -> str:
    if "unexpected_count" in result:
        return f"{result['unexpected_count']} of {result['element_count']} rows"
    return f"got {result.get('observed_value')}"[:_MAX_TOLD]


def serve(read: BinaryIO, write: BinaryIO) -> None:
    """Serve until the input ends."""

    def tell(line: bytes) -> None:
        write.write(line + b"\n")
        write.flush()

    try:
        judge = Judge(json.loads(sys.argv[1]))
        gc.freeze()  # what was imported lives to the end; to look through it takes half of the time of a judgement
        gc.set_threshold(50_000, 20, 50)
    except Exception as error:  # noqa: BLE001 - told to whoever named the expectations
        tell(msgspec.json.encode({"error": f"{type(error).__name__}: {error}"[:2000]}))
        return
    tell(b'{"ready":true}')
    while size := read.read(8):
        with pa.ipc.open_stream(read.read(int.from_bytes(size, "little"))) as stream:
            batch = pa.Table.from_batches(list(stream)).combine_chunks().to_batches()[0]
        tell(msgspec.json.encode(judge.judge(batch)))
