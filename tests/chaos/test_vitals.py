"""What processes hold, from look to look."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.chaos.vitals import Holding, Vitals


def test_a_process_is_seen_with_what_it_holds(tmp_path: Path) -> None:
    """And one that has ended is left out."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(b"\0" * 3_000_000)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    vitals = Vitals()
    for at in range(8):
        vitals.look(at, {"here": (os.getpid(), tmp_path), "gone": (gone.pid, tmp_path)})
    (held,) = vitals.held.values()
    assert len(held) == 8
    assert 10 < held[0].memory_mb < 10_000
    assert held[0].files >= 3
    assert held[0].threads >= 1
    assert held[0].state_mb == 3.0
    row = next(line for line in vitals.table().splitlines() if "state folder" in line)
    assert row.split() == ["here", "state", "folder,", "MB", *["3"] * 5]
    root = ET.fromstring(vitals.picture())  # noqa: S314 - it is our own
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 4


def test_a_long_run_has_no_more_points_than_there_is_room_for_and_its_peaks() -> None:
    """The picture of an hour is small enough to be kept."""
    vitals = Vitals()
    vitals.held["cell"] = [Holding(at, 100 + 50 * (at == 777), 1, 1, 1) for at in range(1000)]
    memory = vitals.picture().split("points=")[1].split('"')[1].split()
    assert len(memory) == 200
    assert min(int(point.split(",")[1]) for point in memory) == round(48 + 150 * 0.05)


def test_what_was_never_seen_has_an_empty_picture() -> None:
    """A run that ended before the first look."""
    assert "<svg" in Vitals().picture()
    assert Vitals().table().count("\n") == 0
