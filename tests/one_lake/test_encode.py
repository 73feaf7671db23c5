"""Rows to Arrow: what a column cannot hold is told with the row and the field."""

from typing import Any

import pytest

from one_lake.encode import encode_rows, record_batch
from schemas.errors import BadRecordError
from schemas.one import Record, RoundRow
from tests.one_lake.lake_data import record, round_row


@pytest.mark.parametrize(
    "changes,told",
    [
        ({"converged_at": 1 << 62}, "not a time in microseconds since the epoch - at $.converged_at"),
        ({"models": ["small", None]}, "null in a list - at $.models"),
        ({"topic": None}, "null where a value is required - at $.topic"),
    ],
)
def test_a_record_that_a_column_cannot_hold_is_named(changes: dict[str, Any], told: str) -> None:
    """Among others."""
    lines = encode_rows([record(0, 0), record(0, 1, **{"content_hash": "", **changes}), record(0, 2)])
    with pytest.raises(BadRecordError) as caught:
        record_batch(Record, lines)
    assert str(caught.value).startswith("records[0]@1: ")
    assert str(caught.value).endswith(told)


def test_a_text_that_is_none_is_named() -> None:
    """Half a surrogate pair, for example."""
    with pytest.raises(BadRecordError, match=r"^rounds\[0\]@1: .* - at \$\.detail$"):
        encode_rows([round_row(0, 0), round_row(0, 1, detail="\ud800")])
    assert record_batch(RoundRow, encode_rows([round_row(0, 0)])).num_rows == 1
