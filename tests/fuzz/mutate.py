"""Mutation of JSON: a fuzzer that turns bits never gets past the parser, so half of its inputs are made here."""

import random
from typing import Any

import msgspec

_ODD: tuple[Any, ...] = (
    None,
    True,
    "",
    "\0",
    "\ufffe",
    "x" * 600,
    "a:r1",
    0,
    -1,
    1 << 63,
    -(1 << 63),
    1e308,
    -0.0,
    0.5,
    [],
    {},
    [[]],
    {"": ""},
)


def json_mutant(data: bytes, longest: int, seed: int) -> bytes | None:
    """Change one to four places of a document; None where the input is none.

    Args:
        data: a document.
        longest: bytes of what comes out; a longer one is cut off.
        seed: the same gives the same.
    """
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        document = _changed(document, chance)
    return msgspec.json.encode(document)[:longest]


def _changed(value: Any, chance: random.Random) -> Any:
    """Change something in a value, or the value itself."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(list(value))
        return _in_object(dict(value), name, chance)
    if isinstance(value, list) and value and chance.random() < 0.85:
        place = chance.randrange(len(value))
        return _in_array(list(value), place, chance)
    if isinstance(value, str) and value and chance.random() < 0.5:
        at = chance.randrange(len(value))
        return (
            value[:at] + chance.choice(["", "\\", '"', "`", "$", ":", "9", value]) + value[at + chance.randint(0, 2) :]
        )
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.5:
        return chance.choice([value + 1, -value, value * 1000, float(value) / 3])
    return chance.choice(_ODD)


def _in_object(value: dict[str, Any], name: str, chance: random.Random) -> dict[str, Any]:
    step = chance.random()
    if step < 0.1:
        del value[name]
    elif step < 0.2:
        value[str(_changed(name, chance)) if chance.random() < 0.5 else "extra"] = value[name]
    else:
        value[name] = _changed(value[name], chance)
    return {str(key): each for key, each in value.items()}


def _in_array(value: list[Any], place: int, chance: random.Random) -> list[Any]:
    step = chance.random()
    if step < 0.1:
        del value[place]
    elif step < 0.25:
        value.insert(place, value[place])
    else:
        value[place] = _changed(value[place], chance)
    return value
