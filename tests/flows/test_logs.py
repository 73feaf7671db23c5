"""The log for machines: one object a record, with what it is about, and without what nobody is to read there."""

import json
import logging
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flows import logs
from flows.cli import main
from flows.terminal import command_name, ended, say
from schemas.decision import Decision, DecisionKind
from tests.aureon_command import aureon
from tests.brokers import Broker

pytestmark = pytest.mark.embedded
SECRET = "the-answer-of-a-model"  # noqa: S105 - nobody's password


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What goes to stderr; the loggers are as before after the test."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err
    logging.captureWarnings(capture=False)
    root.handlers[:] = before
    root.setLevel(level)


def records(text: str) -> list[dict[str, Any]]:
    """What was written, line by line."""
    return [json.loads(line) for line in text.splitlines()]


def test_a_record_is_one_line_with_its_task(written: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in its message: line feeds, and the separators of lines that Unicode has besides."""
    logs.set_up("info", "json")
    monkeypatch.setattr(logs.JsonLines, "cell", "cell-1")
    decision = Decision(
        kind=DecisionKind.DEAD, kafka_topic="tasks.global", offset=3, task_id="x:r1", topic="math", logical_id="x"
    )
    logging.getLogger("flows.refine").warning("two\nlines\u2028%s", "more", extra=logs.about(decision))
    (record,) = records(written())
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "level": "warning",
        "logger": "flows.refine",
        "message": "two\nlines\u2028more",
        "cell": "cell-1",
        "task_id": "x:r1",
        "topic": "math",
        "logical_id": "x",
    }


def test_an_exception_is_one_field(written: Callable[[], str]) -> None:
    """With all of its stack."""
    logs.set_up("info", "json")
    try:
        _ = os.environ["GONE"]
    except KeyError:
        logging.getLogger("flows").exception("it broke")
    (record,) = records(written())
    assert record["message"] == "it broke"
    assert record["exception"].startswith("Traceback")
    assert record["exception"].endswith("KeyError: 'GONE'")


def test_what_is_said_to_people_is_a_record_too(written: Callable[[], str]) -> None:
    """At any level of the log, since it is no part of it."""
    logs.set_up("error", "json")
    say("metrics at http://127.0.0.1:9464/metrics")
    (record,) = records(written())
    assert (record["logger"], record["message"]) == ("aureon", "metrics at http://127.0.0.1:9464/metrics")


def test_a_refusal_is_a_record_too(written: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of the settings themselves."""
    monkeypatch.setenv("AUREON_LOG_FORMAT", "json")
    assert main(["run", "--max-rounds", "0"]) == 2
    assert "--max-rounds='0'" in records(written())[-1]["message"]


def test_for_people_it_is_as_it_was(written: Callable[[], str]) -> None:
    """Plain lines."""
    logs.set_up("info", "text")
    say("hello")
    logging.getLogger("flows").info("there")
    text = written()
    assert text.startswith("hello\n")
    assert text.endswith(" INFO flows: there\n")


@pytest.mark.parametrize("reason, told", [("attempts_spent", "attempts_spent"), (f"it says '{SECRET}'", ""), ("", "")])
def test_a_reason_in_sentences_is_left_out(reason: str, told: str) -> None:
    """It may quote an answer."""
    decision = Decision(kind=DecisionKind.DEAD, kafka_topic="tasks.global", offset=3, task_id="x:r1", reason=reason)
    assert logs.reason_of(decision) == told


def test_a_cell_logs_in_json_alone(own_broker: Broker, tmp_path: Path) -> None:
    """From its start to its end, with the ids of tasks, its name, and nothing of what models or users said."""
    tasks = [
        {"topic": "math", "logical_id": "good", "payload": {"prompt": f"not to be read: {SECRET}"}},
        {"topic": "math", "logical_id": "bad", "payload": {}},
    ]
    lines = "\n".join(msgspec.json.encode(task).decode() for task in tasks)
    brokers, nodes = own_broker.brokers, "tests.flows.refine_parts:quick_nodes"
    aureon("submit", "-", cwd=tmp_path, stdin=lines, AUREON_BROKERS=brokers)
    command = ("run", "--until-idle", "1", "--log-format", "json", "--log-level", "debug")
    done = aureon(*command, cwd=tmp_path, AUREON_BROKERS=brokers, AUREON_NODES=nodes)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert SECRET not in done.stderr
    (converged,) = [record for record in told if record["message"].startswith("converged")]
    assert (converged["task_id"], converged["topic"]) == ("good:r0", "math")
    assert converged["cell"]
    assert told[-1]["message"] == "stopped; start it again and it goes on where it stood"


def test_where_a_record_comes_from_is_told_if_that_was_asked_for(written: Callable[[], str]) -> None:
    """With the stack, in the same line."""
    logs.set_up("info", "json")
    logging.getLogger("flows.refine").info("here", stack_info=True)
    (record,) = records(written())
    assert "test_where_a_record_comes_from" in record["stack"]


def test_a_fault_nobody_expected_is_one_line_for_machines(written: Callable[[], str]) -> None:
    """With the traceback in it."""

    def fails() -> int:
        raise KeyError("a fault of our own")

    logs.set_up("warning", "json")
    assert ended(fails) == 1
    (record,) = records(written())
    assert (record["level"], record["message"]) == ("critical", "failed: KeyError: 'a fault of our own'")
    assert "Traceback" in record["exception"]


def test_the_command_is_named_as_the_user_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name where that is enough."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_name().endswith(" -m flows.cli")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "a folder" / "aureon"), "demo"])
    assert shlex.split(command_name()) == [os.path.relpath(tmp_path / "a folder" / "aureon")]
    (tmp_path / "aureon").write_text("#!/bin/sh\n")
    (tmp_path / "aureon").chmod(0o755)
    assert command_name() == "aureon"
