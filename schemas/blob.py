"""References: how a payload or an answer travels that is too large for Kafka."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from schemas.errors import UNREADABLE, BadRecordError

REFERENCE_START = '{"$blob":'
"""How a reference begins as Aureon writes it. An answer that begins so, and is long enough to be one, is itself kept in
the blob store, so that nothing a model says is taken for a reference."""
SHORTEST_REFERENCE = 93
"""In characters, as Aureon writes it."""


class BlobReference(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Stands for a payload or an answer that is in the blob store: `{"$blob": "sha256-…", "bytes": …}`.

    No payload looks like it: a payload has a `prompt` or `messages`, and a reference nothing besides its two fields.
    """

    name: Annotated[
        str,
        Meta(
            pattern="^sha256-[0-9a-f]{64}$",
            max_length=71,  # the pattern alone lets a line end pass
            description="`sha256-` and the sha256 of the bytes, in hex.",
        ),
    ] = msgspec.field(name="$blob")
    size: Annotated[int, Meta(ge=1, le=(1 << 63) - 1, description="How many bytes there are.")] = msgspec.field(
        name="bytes"
    )


_decode = msgspec.json.Decoder(BlobReference).decode


def read_reference(payload: bytes) -> BlobReference | None:
    """Read a payload that is no question itself; None where it is no reference either.

    Raises:
        BadRecordError: it is meant as one, and is none.
    """
    try:
        return _decode(payload)
    except UNREADABLE as error:
        if b'"$blob"' not in payload:
            return None
        raise BadRecordError(f"no reference to a blob: {error}".replace("`$", "`$.payload")) from None


def reference_in(text: str) -> BlobReference | None:
    """Read a text as Aureon wrote it; None where it is no reference but the text itself."""
    if not text.startswith(REFERENCE_START):
        return None
    try:
        return _decode(text)
    except UNREADABLE:
        return None
