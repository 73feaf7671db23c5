"""The log of a process: lines for people, or one JSON object a record for machines.

A record that is about a task says so by `extra=about(decision)`. Nothing that a model said goes into a log: payloads
and answers are in Kafka and in the lake, for whoever may read those.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

from schemas.decision import Decision

Format = Literal["text", "json"]

_ABOUT = ("task_id", "topic", "logical_id", "lane")
"""What a record may be about."""


class JsonLines(logging.Formatter):
    """One JSON object a record; its message and its exception are fields, so it is one line."""

    cell = ""
    """The name of the cell in this process, once it is known."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record down."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if JsonLines.cell:
            told["cell"] = JsonLines.cell
        told |= {name: getattr(record, name) for name in _ABOUT if hasattr(record, name)}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            told["stack"] = record.stack_info
        return json.dumps(told, default=str)  # ASCII alone: no separator of lines that Unicode has besides


class StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is at the time: a progress bar, or the engine's muffler, may have taken its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override] # an attribute there, of the same type
        """The present stderr."""
        return sys.stderr


def set_up(level: str, form: Format) -> None:
    """Have all loggers write to stderr.

    Args:
        level: by name; what is below is left out.
        form: of the records.
    """
    handler = StandardError()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(form == "json")
    # a solver's process that ends together with this one is nothing to warn of
    logging.getLogger("asyncio").setLevel(logging.ERROR)


def writes_json() -> bool:
    """Tell whether stderr is for machines, so that what is said to people goes there as a record too."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def say_as_record(text: str, level: int = logging.INFO, error: BaseException | None = None) -> None:
    """Write what is said to people, whatever the level of the log is."""
    record = logging.LogRecord(
        "aureon", level, "", 0, text, None, None if error is None else (type(error), error, error.__traceback__)
    )
    for handler in logging.getLogger().handlers:
        handler.handle(record)


def about(decision: Decision) -> dict[str, str]:
    """What a record on a decision is about, for `extra=`."""
    return {"task_id": decision.task_id, "topic": decision.topic, "logical_id": decision.logical_id}


def reason_of(decision: Decision) -> str:
    """Why it was decided so, in a word of Aureon's own; what policies say in sentences may quote an answer."""
    return decision.reason if decision.reason.isidentifier() else ""
