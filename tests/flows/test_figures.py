"""What the lake tells of the work, by topic."""

from pathlib import Path

from flows.figures import lake_by_topic
from tests.one_lake.lake_data import branch, dead_letter, lake_writer, record, round_row


def test_what_the_gate_refused_is_dead_and_nothing_is_open_less_than_not_at_all(tmp_path: Path) -> None:
    """The round of a branch may be in the lake before that of its parent, which is another lane's."""
    writer = lake_writer(tmp_path)
    writer.add([record(0, 0), round_row(0, 0), dead_letter(0, 1, reason="quality_gate"), round_row(0, 1)])
    ahead = {"topic": "logic", "cause_lane": 1, "cause_offset": 0}
    writer.add([dead_letter(0, 2, topic="logic", reason="rejected"), round_row(0, 2, kind="dead", **ahead)])
    writer.flush()
    found, _ = lake_by_topic(tmp_path, 0.0)
    assert (found["math"].converged, found["math"].dead, found["math"].open) == (1, 1, 0)
    assert (found["logic"].dead, found["logic"].open) == (1, 0)
    writer.add([record(1, 0), round_row(1, 0), branch(1, 0, 0, topic="logic"), branch(1, 0, 1, topic="logic")])
    writer.flush()
    writer.close()
    found, _ = lake_by_topic(tmp_path, 0.0)
    assert (found["logic"].branches, found["logic"].open) == (2, 1)
