"""What each process of a cluster holds, from look to look: memory, files, threads, and its state folder on disk.

Over a long run all of it has to level off, in each life anew.
"""

import itertools
import statistics
from collections.abc import Mapping
from html import escape
from pathlib import Path

from msgspec import Struct

WIDTH, HEIGHT, TITLE, POINTS = 1400, 150, 24, 240
COLOURS = ("#06c", "#e80", "#390", "#a3a")
QUARTERS = 4


class Holding(Struct, frozen=True):
    """One look at one process."""

    at: float
    """Seconds since the timeline began."""
    memory_mb: float
    """Resident."""
    files: int
    """Open: sockets and pipes too."""
    threads: int
    state_mb: float
    """The state folder, as far as there is room for it on the disk."""


WHAT = {"memory_mb": "memory, MB", "files": "open files", "threads": "threads", "state_mb": "state folder, MB"}


class Vitals:
    """Collects, and tells."""

    def __init__(self) -> None:
        self.held: dict[str, list[Holding]] = {}

    def look(self, at: float, processes: Mapping[str, tuple[int, Path]]) -> None:
        """Look at each process by its id, and at its folder; one that is just dying or beginning is left out."""
        for name, (pid, folder) in processes.items():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
                memory, threads = (int(status.split(f"\n{what}:")[1].split()[0]) for what in ("VmRSS", "Threads"))
            except (OSError, IndexError):
                continue
            holding = Holding(at, memory / 1024, files, threads, _size(folder) / 1e6)
            self.held.setdefault(name, []).append(holding)

    def table(self) -> str:
        """The median of each quarter of the time, and the most, by process."""
        lines = [f"{'':<12}{'':<18}{'quarters of the time: medians':>40}{'most':>10}"]
        for name, held in sorted(self.held.items()):
            for what, told in WHAT.items():
                values = [getattr(h, what) for h in held]
                quarters = [statistics.median(part) for part in _parts(values)]
                lines.append(f"{name:<12}{told:<18}{''.join(f'{q:>10.0f}' for q in quarters)}{max(values):>10.0f}")
        return "\n".join(lines)

    def picture(self) -> str:
        """A line for each process, for each of the things it holds: SVG, for a page or as a file of its own."""
        until = max((h.at for held in self.held.values() for h in held), default=1.0)
        colours = dict(zip(sorted(self.held), COLOURS, strict=False))
        names = " ".join(f'<tspan fill="{colour}">{escape(name)}</tspan>' for name, colour in colours.items())
        height = (len(WHAT) + 1) * TITLE + len(WHAT) * HEIGHT
        drawn = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="100%">',
            "<style>text{font:15px system-ui}polyline{fill:none;stroke-width:1.5}rect{fill:#f6f6f6}</style>",
            f'<text y="16">What the processes held, over {until:,.0f} s: {names}</text>',
        ]
        for place, (what, told) in enumerate(WHAT.items()):
            most = max((getattr(h, what) for held in self.held.values() for h in held), default=0) or 1
            top = TITLE + place * (HEIGHT + TITLE)
            drawn.append(f'<text y="{top + 16}">{told}, up to {most:,.0f}</text>')
            drawn.append(f'<rect y="{top + TITLE}" width="{WIDTH}" height="{HEIGHT}"/>')
            for name, colour in colours.items():
                points = " ".join(
                    f"{WIDTH * at / until:.0f},{top + TITLE + HEIGHT * (1 - 0.95 * value / most):.0f}"
                    for at, value in _thinned([(h.at, getattr(h, what)) for h in self.held[name]])
                )
                drawn.append(f'<polyline stroke="{colour}" points="{points}"/>')
        return "\n".join([*drawn, "</svg>"])


def _parts(values: list[float]) -> list[list[float]]:
    """Cut into quarters; none is empty, but for want of values."""
    bounds = [len(values) * i // QUARTERS for i in range(QUARTERS + 1)]
    return [values[a : max(b, a + 1)] or values for a, b in itertools.pairwise(bounds)]


def _thinned(looks: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Not more than a picture has room for: of those next to each other the one with the most."""
    step = -(-len(looks) // POINTS)
    return [max(looks[at : at + step], key=lambda look: look[1]) for at in range(0, len(looks), step or 1)]


def _size(folder: Path) -> int:
    """Bytes of all files; one that goes away meanwhile counts as none."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
