"""Files that are whole from the first moment at which anybody sees them, also if this process dies meanwhile."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

OWNER_ALONE, ANYBODY = 0o600, 0o644
"""Who may read a file."""


def make_once(path: Path, data: bytes, mode: int = OWNER_ALONE) -> None:
    """Write a file, unless it is there; where several processes begin at once, all find what one of them wrote."""
    if path.exists():
        return
    with _draft(path, io.BytesIO(data), mode) as draft, contextlib.suppress(FileExistsError):
        os.link(draft, path)


def replace(path: Path, data: bytes, mode: int = OWNER_ALONE) -> None:
    """Write a file, in the place of another if there is one."""
    with _draft(path, io.BytesIO(data), mode) as draft:
        draft.replace(path)


def copy(source: Path, path: Path, mode: int = OWNER_ALONE) -> None:
    """Copy a file, of any size, in the place of another if there is one."""
    with source.open("rb") as data, _draft(path, data, mode) as draft:
        draft.replace(path)


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _draft(path: Path, data: BinaryIO, mode: int) -> Iterator[Path]:
    """A file beside it that is complete and on the disk; its folder is brought there at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            shutil.copyfileobj(data, file, 1 << 20)
            file.flush()
            os.fsync(handle)
        yield draft
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)
