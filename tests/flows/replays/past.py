"""Tasks and models that leave a past of all kinds."""

import json
import re
from pathlib import Path
from typing import Any

from connectors.nodes.signals import SEARCHED
from schemas.node import Answer
from schemas.task import PayloadView, encode
from tests.one_lake.lake_data import lake_writer, record, round_row
from tests.openai_server import Question

RULES = {
    "AUREON_POLICY": "any(verifier, all(stability, threshold(0.6)), threshold(0.93), value(4))",
    "AUREON_BLOB_BYTES": "1024",
    "AUREON_VERIFIERS": "tests.flows.replays.past:even",
}
NODES = """
[[node]]
id = "there"
kind = "openai"
url = "{url}"
models = ["a", "b", "c"]
price_in = 1.0
price_out = 2.0
"""
SUPERVISION = """
[[policy]]
use = "insults"
action = "reject"

[[policy]]
use = "contradiction"
action = "cap"
cap = 0.7

[[policy]]
use = "budget"
share = 0.6

[[policy]]
use = "topic_health"
share = 0.6
last = 5
pause_s = 0.5
"""


def even(_view: PayloadView, answer: str) -> bool:
    """A verifier."""
    number = re.search(r"-?\d+", answer)
    return number is not None and int(number[0]) % 2 == 0


class Models:
    """What the three models say."""

    def answer(self, question: Question) -> str:
        """By the kind of the task: agree, agree late, err, never agree, be long, be rude."""
        text = " ".join(str(m["content"]) for m in question["messages"])
        found = re.search(r"<(\w+) (\d+)>", text)
        kind, number = (found[1], int(found[2])) if found else ("sum", 0)
        if kind == "sum":
            return self._sum(question["model"], number, text)
        said = {
            "rude": ("You are a stupid idiot.",) * 3,
            "long": (f"{number} " + "and so on " * 200,) * 3,
            "expression": (f"x**2 - {number}*x", f"x*(x - {number})", f"x*x - {number} * x"),
            "odd": (str(2 * number + 1), str(2 * number), str(2 * number + 1)),
        }
        return said[kind]["abc".index(question["model"])]

    def _sum(self, model: str, number: int, text: str) -> str:
        if number % 5 == 0:
            return str(2 * number + ord(model))
        if number % 5 == 1 and "say so" not in text:  # what the second round is told of the first
            return {"a": str(2 * number), "b": str(3 * number + 7), "c": "I do not know"}[model]
        return {"a": str(2 * number), "b": str(2 * number), "c": str(2 * number + number % 3)}[model]


def tasks() -> str:
    """Lines for `aureon submit`."""
    lines: list[dict[str, Any]] = []

    def add(topic: str, name: str, kind: str, number: int, answer_kind: str, **more: Any) -> None:
        payload = {"prompt": f"Tell me <{kind} {number}>.", "answer_kind": answer_kind, **more.pop("payload", {})}
        lines.append({"topic": topic, "logical_id": name, "payload": payload, **more})

    for n in range(40):
        add("math", f"sum-{n}", "sum", n, "number")
        add("math", f"again-{n}", "sum", n, "number")
    for n in range(8):
        add("algebra", f"expression-{n}", "expression", n, "expression")
        add("checked", f"odd-{n}", "odd", n, "number", payload={"verifier": "even"})
        add("prose", f"long-{n}", "long", n, "text", payload={"context": "word " * SEARCHED} if n % 2 else {})
        add("scarce", f"scarce-{n}", "sum", 5 * n, "number", budget={"calls": 3 + n % 3})
    for n in range(12):
        add("talk", f"rude-{n}", "rude", n, "text")
    return "\n".join(json.dumps(line) for line in lines)


def write_many(lake: Path, count: int, first: int = 0) -> None:
    """Write a lake of single rounds that converged, as a cell would have decided."""
    writer = lake_writer(lake)
    for start in range(first, first + count, 1000):
        rows: list[Any] = []
        for offset in range(start, min(start + 1000, first + count)):
            answers = [Answer(node="n", model=m, text=str(offset + (m == "c") * (offset % 2))) for m in "abc"]
            rows.append(record(0, offset, payload='{"prompt": "how much?", "answer_kind": "number"}'))
            rows.append(round_row(0, offset, candidates=encode(answers).decode()))
        writer.add(rows)
        writer.flush()
    writer.close()
