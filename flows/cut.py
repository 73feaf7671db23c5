"""The cut: all that a lane remembers, and the forms in which it is kept.

In a snapshot it is one piece. In the commit of a consumer group there is a piece for each Kafka topic of the lane,
since the metadata of each may have 4,096 bytes: some 150 lanes' causes. Whoever reads them takes them for a cut only if
all are of one.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from schemas.errors import UNREADABLE, LogMismatchError
from schemas.software import check_version, version_in

VERSION = 1
_CURE = (
    "end all cells and delete the group's offsets (kafka-consumer-groups --delete-offsets), or, where it is that of a "
    "snapshot, the folder `recovery` in the state folder; the lane then begins with an older one, which only costs time"
)


class TopicCut(Struct, frozen=True, array_like=True):
    """Of one input Kafka topic: the low-water, and the newest cause below it for each lane of origin."""

    low: int
    causes: dict[int, tuple[int, int]]


class Cut(Struct, frozen=True):
    """All that a lane remembers, taken at a log offset."""

    lane: int
    log: int
    """D: all that follows from entries before it is delivered."""
    resume_from: int
    """R: the earliest entry about a message at or above a low-water, or D."""
    topics: dict[str, TopicCut]
    version: int = VERSION
    orderly: bool = False
    """The process that had the lane has let go of it: what it had under way brought nothing down."""
    rows: int = -1
    """The last entry before D from which rows follow: the lake had them when this was committed."""


class _Piece(Struct, frozen=True, array_like=True):
    """What the commit of one input says."""

    log: int
    """Of the cut that it is a piece of."""
    cut: TopicCut


def newest(*cuts: Cut | None) -> Cut | None:
    """Choose the cut that stands for most of the log: a lane that was elsewhere has an old one in its folder."""
    return max((c for c in cuts if c is not None), key=lambda c: c.log, default=None)


def encode_cut(cut: Cut) -> bytes:
    """Write a cut down in one piece."""
    return msgspec.json.encode(cut)


def decode_cut(data: bytes) -> Cut:
    """Read a cut.

    Raises:
        RefusedError: a newer Aureon wrote it.
        LogMismatchError: it is none.
    """
    check_version("the cut of a lane", version_in(data), VERSION)
    try:
        return msgspec.json.decode(data, type=Cut)
    except UNREADABLE as error:
        raise LogMismatchError(f"a cut that is none ({error}): {_CURE}") from None


def pieces_of(cut: Cut) -> tuple[str, dict[str, str]]:
    """Take a cut apart: what all inputs have in common, and a piece for each."""
    common = encode_cut(msgspec.structs.replace(cut, topics={})).decode()
    return common, {name: msgspec.json.encode(_Piece(cut.log, topic)).decode() for name, topic in cut.topics.items()}


def joined(common: str, pieces: Mapping[str, str]) -> Cut | None:
    """Put a cut together again; None where a piece is missing, or is of another one.

    Args:
        common: what all inputs have in common; a whole cut, in commits from before there were pieces.
        pieces: by input; empty where there is none.

    Raises:
        RefusedError: a newer Aureon wrote it.
        LogMismatchError: it is none.
    """
    cut = decode_cut(common.encode())
    if cut.topics:
        return cut
    topics = {}
    for name, text in pieces.items():
        try:
            piece = msgspec.json.decode(text, type=_Piece) if text else None
        except UNREADABLE as error:
            raise LogMismatchError(f"the cut of lane {cut.lane} is none for {name} ({error}): {_CURE}") from None
        if piece is None or piece.log != cut.log:
            return None
        topics[name] = piece.cut
    return msgspec.structs.replace(cut, topics=topics)
