"""Every format that outlives a process, as it is kept in `tests/data/formats.json`; and what may be changed of it.

python -m tests.schemas.formats      write it anew, once what was changed follows the rule of `schemas/VERSIONS.md`
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from connectors.cancels import Cancel
from connectors.ledger import _SCHEMA as LEDGER_TABLES
from connectors.ledger import Commit
from connectors.owner_index import _SCHEMA as INDEX_TABLES
from connectors.topics import ClusterRecord
from flows.accepted import _State as AcceptedState
from flows.affinity import AffinityState
from flows.branched import _State as BranchedState
from flows.commands.schema import _without_raw_defaults
from flows.counts import TopicCounts
from flows.cut import Cut, _Piece
from flows.outlook import OutlookState
from flows.root import RootState
from flows.supervision.health import _State as SupervisionState
from flows.votes import Parameters
from one_lake.keys import PublicKey
from one_lake.runs import Run
from one_lake.seals import Seal
from one_lake.search import _SCHEMA as SEARCH_TABLES
from schemas.blob import BlobReference
from schemas.decision import DeadLetter, Decision
from schemas.head import Head
from schemas.node import NodeState
from schemas.one import BranchRow, DeadLetterRow, Record, RoundRow, RunRow, arrow_schema
from schemas.supervision import CellState, Noted, Quarantine
from schemas.task import TaskDescriptor

KEPT = Path(__file__).parents[1] / "data" / "formats.json"
_SAID = {"title", "description", "examples"}
"""Of a JSON Schema, what changes nothing."""


class Format(NamedTuple):
    """One of them."""

    number: str
    """Where its number is: module.NAME; empty where it has none."""
    form: Callable[[], Any]
    """Tells its form, as JSON."""


def fields(*structs: type[Struct]) -> Callable[[], Any]:
    """The form of structures."""
    return lambda: [_plain_schema(struct) for struct in structs]


def columns(struct: type[Struct]) -> Callable[[], Any]:
    """The form of a table of the lake."""
    return lambda: {"columns": [[f.name, str(f.type), f.nullable] for f in arrow_schema(struct)]}


def tables(*statements: str) -> Callable[[], Any]:
    """The form of a file of SQLite."""
    return lambda: {"sql": [" ".join(s.split()) for text in statements for s in text.split(";") if s.strip()]}


FORMATS: dict[str, Format] = {
    "task": Format("schemas.decision.WIRE_VERSION", fields(TaskDescriptor)),
    "decision": Format("schemas.decision.WIRE_VERSION", fields(Decision)),
    "dead letter": Format("", fields(DeadLetter)),
    "heartbeat": Format("", fields(CellState, NodeState)),
    "record of the cluster": Format("connectors.topics.CLUSTER_VERSION", fields(ClusterRecord)),
    "directive": Format("", fields(Cancel, Quarantine, TopicCounts)),
    "head": Format("", fields(Head)),
    "cut": Format("flows.cut.VERSION", fields(Cut, _Piece)),
    "call ledger": Format("connectors.ledger.LEDGER_VERSION", lambda: [*fields(Commit)(), tables(LEDGER_TABLES)()]),
    "index of ids": Format("connectors.owner_index.INDEX_VERSION", tables(INDEX_TABLES)),
    "what was learned: affinities": Format("flows.affinity.STATE_VERSION", fields(AffinityState)),
    "what was learned: outlook": Format("flows.outlook.STATE_VERSION", fields(OutlookState)),
    "what was learned: accepted": Format("flows.accepted.STATE_VERSION", fields(AcceptedState)),
    "what was learned: branched": Format("flows.branched.STATE_VERSION", fields(BranchedState)),
    "what was learned: supervision": Format("flows.supervision.health.STATE_VERSION", fields(SupervisionState)),
    "state of the root": Format("flows.root.STATE_VERSION", fields(RootState)),
    "parameters of votes": Format("flows.votes.FORMAT", fields(Parameters)),
    "reference to a blob": Format("", fields(BlobReference)),
    "table records": Format("", columns(Record)),
    "table rounds": Format("", columns(RoundRow)),
    "table branches": Format("", columns(BranchRow)),
    "table dead_letters": Format("", columns(DeadLetterRow)),
    "table supervision": Format("", columns(Noted)),
    "seal": Format("", fields(Seal)),
    "public key": Format("", fields(PublicKey)),
    "run": Format("", lambda: [*fields(Run)(), columns(RunRow)()]),
    "search index": Format("one_lake.search.FORMAT", tables(SEARCH_TABLES)),
}


def number_of(name: str) -> int | None:
    """The number of a format, as the code has it."""
    module, _, constant = FORMATS[name].number.rpartition(".")
    return int(getattr(importlib.import_module(module), constant)) if module else None


def present() -> dict[str, Any]:
    """All formats, with their numbers, as JSON has them."""
    found = {name: {"number": number_of(name), "form": made.form()} for name, made in FORMATS.items()}
    as_json: dict[str, Any] = json.loads(json.dumps(found))
    return as_json


def _plain_schema(struct: type[Struct]) -> Any:
    (schema,), defs = msgspec.json.schema_components([_without_raw_defaults(struct)])

    def plain(part: Any) -> Any:
        if isinstance(part, list):
            return [plain(entry) for entry in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return plain({**defs[part["$ref"].rpartition("/")[2]], **{k: v for k, v in part.items() if k != "$ref"}})
        if "properties" in part:
            part = {**part, "properties": {name: plain(of_name) for name, of_name in part["properties"].items()}}
        return {k: v if k == "properties" else plain(v) for k, v in part.items() if k not in _SAID}

    return plain(schema)


# -- the rule ------------------------------------------------------------------------------------------------------


_BOUNDS = {"minimum", "maximum"}
"""Whoever adds one knows that nothing beyond it was ever written."""


def broken(before: Any, now: Any, at: str = "$") -> Iterator[str]:
    """Tell what was changed of a form that may not be without a new number."""
    if isinstance(before, dict) and isinstance(now, dict):
        if "properties" in before and "properties" in now:
            yield from _broken_object(before, now, at)
        elif "prefixItems" in before and "prefixItems" in now:
            yield from _broken_row(before, now, at)
        elif "columns" in before and "columns" in now:
            yield from _broken_columns(before["columns"], now["columns"], at)
        else:
            for key in sorted({*before, *now} - _BOUNDS - before.keys() | before.keys()):
                yield from broken(before.get(key), now.get(key), f"{at}.{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from broken(old, new, f"{at}[{place}]")
    elif before != now:
        yield f"{at}: was {json.dumps(before)}, is {json.dumps(now)}"


def _broken_object(before: dict[str, Any], now: dict[str, Any], at: str) -> Iterator[str]:
    rest = {"properties", "required"}
    for name, old in before["properties"].items():
        if name not in now["properties"]:
            yield f"{at}.{name}: is gone"
        else:
            yield from broken(old, now["properties"][name], f"{at}.{name}")
    for name in now["properties"].keys() - before["properties"].keys():
        if before.get("additionalProperties") is False:
            yield f"{at}.{name}: is new, and who does not know it refuses it"
        elif name in now.get("required", ()):
            yield f"{at}.{name}: is new, and has no default"
    for name in set(before.get("required", ())) ^ set(now.get("required", ())):
        if name in before["properties"] and name in now["properties"]:
            yield f"{at}.{name}: its default came or went"
    yield from broken(_less(before, rest), _less(now, rest), at)


def _broken_row(before: dict[str, Any], now: dict[str, Any], at: str) -> Iterator[str]:
    old, new = before["prefixItems"], now["prefixItems"]
    yield from broken(old, new[: len(old)], at)
    yield from broken(_less(before, {"prefixItems"}), _less(now, {"prefixItems"}), at)


def _less(form: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: part for name, part in form.items() if name not in names}


def _broken_columns(before: list[Any], now: list[Any], at: str) -> Iterator[str]:
    if now[: len(before)] != before:
        yield f"{at}: columns that were there are others, or elsewhere"
    yield from (f"{at}.{name}: is new, and may not be null" for name, _, nullable in now[len(before) :] if not nullable)


def main() -> int:
    """Write them anew, if that is allowed."""
    kept = json.loads(KEPT.read_bytes()) if KEPT.exists() else {}
    found = present()
    refused = 0
    for name, was in kept.items():
        now = found.get(name)
        if now is not None and (now["number"] is None or now["number"] <= was["number"]):
            for problem in broken(was["form"], now["form"]):
                sys.stderr.write(f"{name}: {problem}\n")
                refused += 1
    if refused:
        sys.stderr.write("these take a new number, or another name where there is none: see schemas/VERSIONS.md\n")
        return 1
    KEPT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
