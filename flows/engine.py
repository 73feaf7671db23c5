"""Bytewax in this process."""

import contextlib
import faulthandler
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def muffled_engine(path: Path) -> Iterator[None]:
    """Send to a file what the engine writes by itself.

    When a step raises, Bytewax's Rust side reports a panic with a stack of its own on file descriptor 2, besides
    raising the error properly. All that Python writes still goes to the real stderr, and so do the stacks of all
    threads where a library takes the process down.
    """
    sys.stderr.flush()
    with path.open("wb") as file, open(os.dup(2), "w", buffering=1, errors="backslashreplace") as real:  # noqa: PTH123
        before, saved = sys.stderr, os.dup(2)
        os.dup2(file.fileno(), 2)
        sys.stderr = real
        told_before = faulthandler.is_enabled()
        faulthandler.enable(real)
        try:
            yield
        finally:
            sys.stderr = before
            os.dup2(saved, 2)
            os.close(saved)
            if told_before:
                faulthandler.enable(2)
            else:
                faulthandler.disable()
