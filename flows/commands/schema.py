"""`aureon schema`: the JSON Schema of everything that crosses a boundary."""

import argparse
import functools
import inspect
import json
import operator
import types
import typing
from typing import Any

import msgspec
from msgspec import Raw, Struct

from connectors.nodes.nodes_file import NodesFile
from flows.terminal import OK, show
from schemas.blob import BlobReference
from schemas.decision import DeadLetter, Decision, RoundResult
from schemas.errors import RefusedError
from schemas.head import Head
from schemas.ids import RQMLRoundId
from schemas.node import Answer, Call, NodeCapabilities, NodeHealth, NodeState
from schemas.one import BranchRow, DeadLetterRow, Record, RoundRow
from schemas.task import BranchProposal, PayloadView, TaskDescriptor, TaskStatus

DIALECT = "https://json-schema.org/draft/2020-12/schema"

SCHEMAS: dict[str, tuple[Any, str]] = {
    "task": (TaskDescriptor, "what a producer writes to Kafka"),
    "branch": (BranchProposal, "a follow-up task, in the `meta.branches` of an answer"),
    "blob_reference": (BlobReference, "stands for a payload, or in a text for an answer, in the blob store"),
    "decision": (Decision, "an entry of the log, on tasks.results"),
    "round_result": (RoundResult, "what the ensemble made of a round, within a decision"),
    "dead_letter": (DeadLetter, "a message on tasks.dead_letter"),
    "call": (Call, "one question to one model"),
    "answer": (Answer, "what a call returned"),
    "node_capabilities": (NodeCapabilities, "what a node declares"),
    "node_state": (NodeState, "how a node is at a time"),
    "node_health": (NodeHealth, "how a node is doing, in a word"),
    "nodes": (NodesFile, "the file nodes.toml, with its nodes and prompts"),
    "task_status": (TaskStatus, "where a logical task stands, in a word"),
    "round_id": (RQMLRoundId, "one refinement pass over one logical id"),
    "record": (Record, "a row of the lake's table `records`, and of the view `one`"),
    "round": (RoundRow, "a row of the lake's table `rounds`"),
    "branch_row": (BranchRow, "a row of the lake's table `branches`"),
    "dead_letter_row": (DeadLetterRow, "a row of the lake's table `dead_letters`"),
    "head": (Head, "a message on one.heads: what the lake held at a time"),
}

_EXAMPLE = {
    "topic": "math",
    "logical_id": "euler-1",
    "payload": {"prompt": "What is 2**64 - 1?", "answer_kind": "number"},
    "metadata": {"customer": "42"},
}


def main(options: argparse.Namespace) -> int:
    """List the names, or print one schema."""
    if options.name is None:
        for name, (_, about) in SCHEMAS.items():
            show(f"{name:<18} {about}")
        return OK
    show(json.dumps(schema_of(options.name), indent=2, ensure_ascii=False))
    return OK


def schema_of(name: str) -> dict[str, Any]:
    """Give the JSON Schema of a structure by its name.

    Raises:
        RefusedError: there is none of that name; lists those that there are.
    """
    if name not in SCHEMAS:
        raise RefusedError(f"no schema {name!r}; there are: {', '.join(SCHEMAS)}")
    if name == "task":
        return _task_schema()
    return {"$schema": DIALECT, **_tidy(msgspec.json.schema(_without_raw_defaults(SCHEMAS[name][0])))}


def _task_schema() -> dict[str, Any]:
    """The task as its producers see it: nothing of Aureon's own, and the payload spelled out.

    In the structure the payload is raw bytes, since Aureon carries it untouched.
    """
    task = _tidy(msgspec.json.schema(TaskDescriptor))["$defs"]["TaskDescriptor"]
    seen = [TaskDescriptor, _without_raw_defaults(PayloadView), BlobReference]
    (_, payload, _), defs = msgspec.json.schema_components(seen)
    view = _tidy(defs["PayloadView"])
    del payload, view["properties"]["$whole"]
    # Filled in by Aureon: a producer that writes anything but the defaults is refused.
    for name in ("cause", "redrive", "origin", "task_id", "round_index", "attempt", "generation"):
        task["properties"].pop(name)
    for name in ("prompt", "messages"):
        # Null is what Aureon itself has where there is none.
        view["properties"][name] = next(s for s in view["properties"][name]["anyOf"] if s != {"type": "null"})
    view["properties"]["verifier"] = {"type": ["string", "null"], "description": "The name of a registered check."}
    view["properties"]["prompt"]["minLength"] = 1
    view["properties"]["tolerance"]["description"] = "How far two numbers may be apart, relative to the larger."
    view["properties"]["answer_kind"]["description"] = "How two answers are compared."
    asks = [{"required": ["prompt"]}, {"required": ["messages"]}]
    task["properties"]["payload"] = {
        **view,
        "description": "What is asked. Everything besides these fields is yours and travels untouched. Or, with a "
        "logical_id, the reference to a blob that holds it.",
        "anyOf": [*asks, {"$ref": "#/$defs/BlobReference"}],
        "additionalProperties": True,
    }
    task["anyOf"] = [
        {"required": ["logical_id"], "properties": {"logical_id": {"minLength": 1}}},
        {"properties": {"payload": {"anyOf": asks}}},
    ]
    return {
        "$schema": DIALECT,
        **task,
        "title": "task",
        "description": "One unit of work, as it is written to the Kafka topic tasks.global; only `topic` and `payload` "
        "are required. The message key is the logical id, the partition that of Java's default partitioner (murmur2).",
        "examples": [_EXAMPLE],
        "$defs": {name: _tidy(defs[name]) for name in ("AnswerKind", "PromptMessage", "BlobReference") if name in defs},
    }


def _without_raw_defaults(hint: Any) -> Any:
    """Rebuild a type without defaults of raw JSON, which a schema cannot show; such a field may still be left out."""
    if isinstance(hint, type) and issubclass(hint, Struct):
        return _rebuilt_struct(hint)
    arguments = typing.get_args(hint)
    if not arguments or typing.get_origin(hint) in (typing.Literal, typing.Annotated):
        return hint
    rebuilt = [_without_raw_defaults(argument) for argument in arguments]
    if isinstance(hint, types.UnionType):
        return functools.reduce(operator.or_, rebuilt)
    return typing.get_origin(hint)[tuple(rebuilt)]


@functools.cache
def _rebuilt_struct(struct: type[Struct]) -> type[Struct]:
    config = struct.__struct_config__
    return msgspec.defstruct(
        struct.__name__,
        [_rebuilt(field) for field in msgspec.structs.fields(struct)],
        namespace={"__doc__": struct.__doc__},
        kw_only=True,
        array_like=config.array_like,
        forbid_unknown_fields=config.forbid_unknown_fields,
    )


def _rebuilt(field: msgspec.structs.FieldInfo) -> Any:
    kind = _without_raw_defaults(field.type)
    name = field.encode_name
    if field.required:
        return field.name, kind, msgspec.field(name=name)
    if isinstance(field.default, Raw):
        return field.name, kind, msgspec.field(name=name, default_factory=Raw)
    if field.default is not msgspec.NODEFAULT:
        return field.name, kind, msgspec.field(name=name, default=field.default)
    return field.name, kind, msgspec.field(name=name, default_factory=field.default_factory)


def _tidy(schema: Any) -> Any:
    """Take the indentation of docstrings out of descriptions, and refer within the document."""
    if isinstance(schema, list):
        return [_tidy(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    tidied = {key: _tidy(value) for key, value in schema.items()}
    if isinstance(tidied.get("description"), str):
        tidied["description"] = inspect.cleandoc(tidied["description"])
    if isinstance(tidied.get("$ref"), str):
        tidied["$ref"] = tidied["$ref"].replace("#/components/schemas/", "#/$defs/")
    return tidied
