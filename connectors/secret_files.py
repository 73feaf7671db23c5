"""Files that hold a secret: made once, whole from the first moment, and readable by their owner alone."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def make_once(path: Path, secret: bytes) -> None:
    """Put a secret into a file that is not there yet; where several processes begin at once, one of them does."""
    if path.exists():
        return
    with _draft(path, secret) as draft, contextlib.suppress(FileExistsError):
        os.link(draft, path)


def replace(path: Path, secret: bytes) -> None:
    """Put another secret in the place of a file's."""
    with _draft(path, secret) as draft:
        draft.replace(path)


@contextlib.contextmanager
def _draft(path: Path, secret: bytes) -> Iterator[Path]:
    """A file beside it that is complete and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # mode 0600
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        yield draft
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        draft.unlink(missing_ok=True)
