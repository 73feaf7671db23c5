"""`aureon schema`: what a producer in another language relies on."""

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped] # it comes with Great Expectations, without types
import pytest

from flows import cli
from flows.commands.schema import SCHEMAS, schema_of
from schemas.errors import BadRecordError
from schemas.task import read_task

TASKS: list[tuple[Any, bool]] = [
    ({"topic": "math", "payload": {"prompt": "1+1"}}, True),
    ({"topic": "math", "payload": {"messages": [{"role": "user", "content": "1+1"}]}}, True),
    ({"topic": "a/b c 🙂", "payload": {"prompt": "1+1", "mine": {"deep": [1, None]}}, "priority": 0}, True),
    ({"topic": "math", "payload": {"prompt": "1+1", "answer_kind": "number", "verifier": "number"}}, True),
    ({"topic": "math", "logical_id": "x", "payload": {"prompt": "?"}, "metadata": {"a": "b"}}, True),
    ({"topic": "math", "logical_id": "x", "payload": {"$blob": "sha256-" + "0" * 64, "bytes": 5}}, True),
    ({"topic": "math", "payload": {"$blob": "mine", "prompt": "1+1"}}, True),
    ({"topic": "math", "payload": {"$blob": "sha256-" + "0" * 64, "bytes": 5}}, False),
    ({"topic": "math", "logical_id": "", "payload": {"$blob": "sha256-" + "0" * 64, "bytes": 5}}, False),
    ({"topic": "math", "logical_id": "x", "payload": {"$blob": "sha256-0", "bytes": 5}}, False),
    ({"topic": "math", "logical_id": "x", "payload": {"$blob": "sha256-" + "0" * 64}}, False),
    ({"topic": "math", "logical_id": "x", "payload": {"$blob": "sha256-" + "0" * 64, "bytes": 5, "n": 1}}, False),
    ({"topic": "math"}, False),
    ({"payload": {"prompt": "1+1"}}, False),
    ({"topic": "", "payload": {"prompt": "1+1"}}, False),
    ({"topic": "math", "payload": {}}, False),
    ({"topic": "math", "payload": "1+1"}, False),
    ({"topic": "math", "payload": {"prompt": 7}}, False),
    ({"topic": "math", "payload": {"prompt": "1+1", "answer_kind": "poem"}}, False),
    ({"topic": "math", "payload": {"prompt": "1+1"}, "priority": -1}, False),
    ({"topic": "math", "payload": {"prompt": "1+1"}, "priority": 10}, False),
    ({"topic": "math", "payload": {"prompt": "1+1"}, "metadata": {"a": 1}}, False),
    ({"topic": "math", "payload": {"prompt": "1+1"}, "colour": "red"}, False),
    ([], False),
]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the rules of JSON Schema itself."""
    assert cli.main(["schema", name]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"].endswith("2020-12/schema")


def test_the_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """With what each is."""
    assert cli.main(["schema"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SCHEMAS)
    assert all(len(line.split()) > 2 for line in lines)


def test_an_unknown_name_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """So that nobody has to look."""
    assert cli.main(["schema", "tusk"]) == 2
    assert "no schema 'tusk'; there are: task, branch" in capsys.readouterr().err


@pytest.mark.parametrize("task, good", TASKS)
def test_schema_and_reader_agree_on_a_task(task: Any, good: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """What the schema lets pass is read, and what it refuses is a dead letter."""
    validator = jsonschema.Draft202012Validator(schema_of("task"))
    assert validator.is_valid(task) is good
    if good:
        read_task(json.dumps(task).encode())
    else:
        with pytest.raises(BadRecordError):
            read_task(json.dumps(task).encode())


def test_the_example_in_the_schema_is_a_task() -> None:
    """People copy it."""
    schema = schema_of("task")
    for example in schema["examples"]:
        jsonschema.Draft202012Validator(schema).validate(example)
        read_task(json.dumps(example).encode())


def test_a_producer_is_told_nothing_of_what_is_aureons_own() -> None:
    """It could only get it wrong."""
    fields = {"topic", "payload", "logical_id", "priority", "metadata", "budget", "sources"}
    assert set(schema_of("task")["properties"]) == fields


def test_descriptions_have_no_indentation_of_source_code() -> None:
    """Docstrings do."""
    assert "\\n    " not in json.dumps(schema_of("decision"))
