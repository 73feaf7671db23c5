"""The table as one reads it, in Markdown."""

import html
from collections.abc import Sequence
from pathlib import Path

from tests.bad_input.rows import BROADCASTS, COMMANDS, LAKE, MESSAGES, REPLIES, STATE, Broadcast, Command, Reply

PATH = Path(__file__).with_name("TABLE.md")
SHOWN = 110
"""Characters of an input."""
_CODES = {0: "done, exit code 0", 1: "failed, exit code 1", 2: "refused, exit code 2"}
_COLUMNS = "| what is wrong | given | what is said | what becomes of it |"
_DEAD = "a dead letter, `bad_input`"
_OUT = "left out, and the cell goes on"
_TAKEN = "tried again, then asked of another model"
_LEFT = "not tried again; asked of another model"
_HEAD = """# What is told of bad input

Written by `python -m tests.bad_input` from `rows.py`. Each row is run by `tests/bad_input`, and its message is all that
is said then; `{home}` and the like stand for what is another one each time.
"""


def rendered() -> str:
    """Give all of the file."""
    parts: dict[str, list[tuple[str, ...]]] = {
        "Commands, files and variables": [(r.kind, _given(r), r.says, _CODES[r.code]) for r in COMMANDS],
        "Messages on `tasks.global`": [(r.kind, _text(r.value), r.says, _DEAD) for r in MESSAGES],
        "Messages on other Kafka topics": [(r.kind, _broadcast(r), r.says, _OUT) for r in BROADCASTS],
        "Answers of models over HTTP": [(r.kind, _reply(r), r.says, _became(r)) for r in REPLIES],
        "Files of a home": [(r.kind, f"{r.file}, then {r.arguments}", r.says, _CODES[r.code] + r.after) for r in STATE],
        "Files of a lake": [(r.kind, f"{r.file}, then {r.arguments}", r.says, _CODES[r.code]) for r in LAKE],
    }
    return "\n".join([_HEAD, *(line for title, rows in parts.items() for line in _part(title, rows))])


def _part(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return [f"## {title}: {len(rows)}\n", _COLUMNS, "|---|---|---|---|", *lines, ""]


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")


def _broadcast(row: Broadcast) -> str:
    return f"{row.kafka_topic}: {_text(row.value)}"


def _given(row: Command) -> str:
    variables = "".join(f"{name}={value} " for name, value in row.variables.items())
    files = "".join(f"; {name}: {_text(data)}" for name, data in row.files.items())
    return f"{variables}aureon {_short(row.arguments)}{files}"


def _reply(row: Reply) -> str:
    body = "" if row.fault.body is None else f" {_text(row.fault.body)}"
    headers = "".join(f" {name}: {value}" for name, value in row.fault.headers.items())
    return f"closed {row.fault.ends}" if row.fault.ends else f"HTTP {row.fault.status}{headers}{body}"


def _became(row: Reply) -> str:
    if row.failure is None:
        return "an abstention"
    return _LEFT if row.failure in ("denied", "rejected") else _TAKEN


def _text(data: bytes) -> str:
    return _short(repr(data)[2:-1] if not _is_text(data) else data.decode().strip())


def _is_text(data: bytes) -> bool:
    try:
        return all(letter.isprintable() or letter == "\n" for letter in data.decode())
    except UnicodeDecodeError:
        return False


def _short(text: str) -> str:
    text = text.replace("\n", " ⏎ ")
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
