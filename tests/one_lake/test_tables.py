"""Tables that somebody reads on and on, and tables that are gone."""

import shutil
import threading
from pathlib import Path

import pytest
from deltalake import DeltaTable

import one_lake
from one_lake import tables
from one_lake.verify import Fault, verify
from schemas.errors import RefusedError
from schemas.one import TABLES
from tests.one_lake.lake_data import decisions, lake_writer, round_row


def test_a_table_that_is_read_on_is_opened_anew_every_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each look goes through every entry since it was opened."""
    writer = lake_writer(tmp_path)
    followed = tables.Followed(tmp_path, "rounds")
    opened = []
    open_table = tables.open_table

    def opening(lake_dir: Path, table: str) -> DeltaTable:
        if threading.current_thread() is threading.main_thread():  # the writer opens it anew, too, on its own
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


@pytest.mark.parametrize("lost", TABLES)
def test_a_table_that_is_gone_is_not_made_anew(tmp_path: Path, lost: str) -> None:
    """It would be empty, and nobody would see it."""
    writer = lake_writer(tmp_path)
    writer.add(decisions(0, range(3)))
    writer.flush()
    writer.close()
    shutil.rmtree(tables.folder(tmp_path, lost))
    for _ in range(2):
        with pytest.raises(RefusedError, match=f"table `{lost}` is gone; put its folder back from a copy"):
            lake_writer(tmp_path)
    with pytest.raises(RefusedError, match=f"table `{lost}` is gone"):
        one_lake.connect(tmp_path)
    if lost == "rounds":
        with pytest.raises(RefusedError, match=f"table `{lost}` is gone"):
            verify(tmp_path)
    else:
        assert verify(tmp_path).first[Fault.LOG_GAP].where == lost


def test_a_lake_that_was_cut_off_while_it_was_made_is_made(tmp_path: Path) -> None:
    """Nothing is in it yet."""
    lake_writer(tmp_path).close()
    shutil.rmtree(tables.folder(tmp_path, "rounds"))
    with pytest.raises(RefusedError, match=r"no lake at .*: run `aureon run`"):
        one_lake.connect(tmp_path)
    lake_writer(tmp_path).close()
    assert verify(tmp_path).is_sound
