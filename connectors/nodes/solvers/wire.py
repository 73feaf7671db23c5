"""What goes between a node and its workers: MessagePack documents, each behind its length in four bytes."""

import msgspec

from connectors.nodes.solvers import Solution


class Request(msgspec.Struct, frozen=True, array_like=True):
    """One prompt for one solver."""

    solver: str
    prompt: str
    round_index: int
    limit_s: float


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What came of it: a solution, None for an abstention, or an error with its type."""

    solution: Solution | None = None
    error: str = ""


def frame(document: bytes) -> bytes:
    """Put its length before a document."""
    return len(document).to_bytes(4, "big") + document
