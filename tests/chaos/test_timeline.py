"""What the loss audit says of a cell that was killed."""

import pytest

from tests.chaos.timeline import Happened, Timeline

EVERY_S = 0.1


def told(gaps: dict[int, tuple[float, float]], away_s: float = 0.0) -> Happened:
    """Lane 0 is that of a cell that is killed after 20 s; every lane decides ten times a second, but in its gap."""
    timeline = Timeline()
    for tick in range(400):
        at = tick * EVERY_S + 0.01
        for lane in range(3):
            began, ended = gaps.get(lane, (0.0, 0.0))
            if not began <= at < ended:
                timeline.note_decision(lane, timeline.began + at)
    killed = Happened("cell killed", "cell-1", 20.0, 20.0 + away_s, (0,))
    timeline.faults = [killed, Happened("root killed", "root", 32.0, 32.0)]
    timeline.judge()
    return timeline.faults[0]


def test_the_lanes_of_a_killed_cell_pause_and_the_others_do_not() -> None:
    """What was decided before the kill is seen a moment after it."""
    fault = told({0: (20.3, 23.9)})
    assert fault.pause_s == pytest.approx(3.9, abs=0.2)
    assert fault.others == pytest.approx(1.0)


def test_a_second_of_the_others_counts() -> None:
    """One of two lanes does nothing for most of a second."""
    fault = told({0: (20.0, 24.0), 1: (25.2, 25.9)})
    assert fault.others == pytest.approx(0.65)


def test_a_cell_that_comes_back_to_take_lanes_of_others_is_told_apart() -> None:
    """Whoever died is not noticed; one that joins is."""
    fault = told({0: (20.0, 24.0), 1: (28.2, 28.9)}, away_s=6.0)
    assert fault.others == pytest.approx(1.0)
    assert fault.others_back == pytest.approx(0.65)
    assert told({0: (20.0, 24.0), 1: (25.2, 25.9)}).others_back is None


def test_a_lane_that_never_goes_on_is_told() -> None:
    """It has no pause, as that would have an end."""
    assert told({0: (20.0, 100.0)}).pause_s is None
