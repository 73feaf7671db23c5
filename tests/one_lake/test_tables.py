"""Tables that somebody reads on and on."""

from pathlib import Path

import pytest
from deltalake import DeltaTable

from one_lake import tables
from tests.one_lake.lake_data import lake_writer, round_row


def test_a_table_that_is_read_on_is_opened_anew_every_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each look goes through every entry since it was opened."""
    writer = lake_writer(tmp_path)
    followed = tables.Followed(tmp_path, "rounds")
    opened = []
    open_table = tables.open_table

    def opening(lake_dir: Path, table: str) -> DeltaTable:
        opened.append(table)
        return open_table(lake_dir, table)

    for offset in range(1, 2 * tables.CHECKPOINT_INTERVAL + 1):
        writer.add([round_row(0, offset)])
        writer.flush()
        with monkeypatch.context() as patched:
            patched.setattr(tables, "open_table", opening)
            assert followed.read_on().count() == offset
    assert opened == ["rounds"] * 2
    writer.close()
