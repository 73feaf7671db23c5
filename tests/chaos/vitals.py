"""What each process of a cluster holds, from look to look: memory, files, threads, and its state folder on disk.

Over a long run all of it has to level off, in each life anew.
"""

import itertools
import statistics
from collections.abc import Mapping
from html import escape
from pathlib import Path

from msgspec import Struct

WIDTH, HEIGHT = 1400, 160
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
        """A line for each process, for each of the things it holds; as SVG for a page."""
        until = max((h.at for held in self.held.values() for h in held), default=1.0)
        colours = dict(zip(sorted(self.held), COLOURS, strict=False))
        names = "; ".join(f'<span style="color:{colour}">{escape(name)}</span>' for name, colour in colours.items())
        drawn = [f"<h2>What the processes held</h2><p>{names}</p>"]
        for what, told in WHAT.items():
            most = max((getattr(h, what) for held in self.held.values() for h in held), default=0) or 1
            lines = "".join(
                f'<polyline style="stroke:{colour}" points="'
                + " ".join(
                    f"{WIDTH * h.at / until:.1f},{HEIGHT * (1 - 0.95 * getattr(h, what) / most):.1f}"
                    for h in self.held[name]
                )
                + '"/>'
                for name, colour in colours.items()
            )
            drawn.append(
                f'<p>{told}, up to {most:,.0f}</p><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%">{lines}</svg>'
            )
        return "\n".join(drawn)


def _parts(values: list[float]) -> list[list[float]]:
    """Cut into quarters; none is empty, but for want of values."""
    bounds = [len(values) * i // QUARTERS for i in range(QUARTERS + 1)]
    return [values[a : max(b, a + 1)] or values for a, b in itertools.pairwise(bounds)]


def _size(folder: Path) -> int:
    """Bytes of all files; one that goes away meanwhile counts as none."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
