"""The corpus: for each target a file of JSON lines, an input a line; one that is no UTF-8 is `{"base64": "…"}`."""

import base64
from collections.abc import Iterable
from pathlib import Path

import msgspec

FOLDER = Path(__file__).parent / "corpus"
LONGEST = 4096
"""Bytes of an input that is kept."""


def read(target: str) -> list[bytes]:
    """Give the inputs of a target."""
    path = FOLDER / f"{target}.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [_decoded(msgspec.json.decode(line)) for line in lines]


def write(target: str, inputs: Iterable[bytes]) -> None:
    """Keep inputs, the short ones first, and each once."""
    kept = sorted(set(inputs), key=lambda data: (len(data), data))
    FOLDER.mkdir(exist_ok=True)
    lines = [msgspec.json.encode(_encoded(data)) for data in kept]
    (FOLDER / f"{target}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def _encoded(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _decoded(told: str | dict[str, str]) -> bytes:
    return told.encode() if isinstance(told, str) else base64.b64decode(told["base64"])
