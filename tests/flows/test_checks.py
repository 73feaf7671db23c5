"""Verifiers, where they take their time: code under tests in a cell, slow ones, ones that fail or never end."""

import asyncio
import json
import threading
import time
from pathlib import Path

import pytest

import one_lake
from flows.checks import AT_A_TIME, Checking, Checks
from flows.steps.validate import ask_verifier, validate
from schemas.node import Answer
from schemas.task import AnswerKind, PayloadView, read_payload
from tests.aureon_command import aureon
from tests.brokers import Broker
from tests.flows.refine_parts import PROGRAMS

pytestmark = pytest.mark.embedded
NODES = "tests.flows.refine_parts:coding_nodes"
CODE = PayloadView(prompt="double", answer_kind=AnswerKind.CODE, verifier="tests", tests="assert double(2) == 4")
SHORT, LONG, WRONG = "def double(x): return 2*x", "def double(x):\n    return x + x", "def double(x): return x"


def said(*texts: str) -> list[Answer]:
    """One answer a node."""
    return [Answer(node=f"n{i}", model="m", text=text) for i, text in enumerate(texts)]


def passes(_view: PayloadView, answer: str) -> bool:
    """Runs it, as a test may."""
    names: dict[str, object] = {}
    exec(answer, names)  # noqa: S102 - written above
    return bool(names["double"](2) == 4)  # type: ignore[operator]


def test_programs_that_pass_the_same_tests_are_one_answer() -> None:
    """However they are written; those that fail are each by themselves."""
    answers = said(SHORT, WRONG, LONG, WRONG + " # so")
    checks = ask_verifier(CODE, answers, {"tests": passes})
    assert dict(checks.verdicts) == {SHORT: True, WRONG: False, LONG: True, WRONG + " # so": False}
    result = validate(CODE, answers, {"tests": passes}, checks=checks)
    assert result.answer == SHORT
    assert result.leading == (0, 2)
    assert result.agreement == 0.5
    assert result.verified
    assert [d.votes for d in result.dissent] == [1, 1]
    assert result.checks[0]


def test_a_verifier_sees_what_in_a_payload_is_the_users_own() -> None:
    """The truth, say; models see the question alone."""

    def knows(view: PayloadView, answer: str) -> bool:
        return bool(answer == view.fields["truth"]["is"])

    view = read_payload(
        b'{"prompt": "6*7", "verifier": "knows", "truth": {"is": "42"}, "$whole": {"truth": {"is": "7"}}}'
    )
    assert ask_verifier(view, said("41", "42"), {"knows": knows}).verdicts == {"41": False, "42": True}
    assert view.fields.keys() == {"prompt", "verifier", "truth", "$whole"}
    assert read_payload(b'{"prompt": "6*7", "truth": 42}').fields == {}, "it is kept for verifiers alone"


def test_a_verifier_is_asked_once_about_an_answer() -> None:
    """However many gave it, and in whatever step of a cascade; validate asks it no more."""
    asked: list[str] = []

    def check(_view: PayloadView, answer: str) -> bool:
        asked.append(answer)
        return False

    view = PayloadView(prompt="?", answer_kind=AnswerKind.NUMBER, verifier="own")
    first = ask_verifier(view, said("1", "2", "1"), {"own": check})
    checks = ask_verifier(view, said("1", "2", "1", "3"), {"own": check}, before=first)
    assert asked == ["1", "2", "3"]
    result = validate(view, said("1", "2", "1", "3"), {"own": check}, checks=checks)
    assert result.verified is False
    assert result.checks == (False, False, False, False)
    assert len(asked) == 3


def test_a_verifier_that_fails_gives_no_verdict_and_one_that_can_tell_why_does() -> None:
    """Both are warned of."""

    class No:
        def __bool__(self) -> bool:
            return False

        def __str__(self) -> str:
            return "stopped by its limit of memory"

    def check(_view: PayloadView, answer: str) -> object:
        if answer == "1":
            raise ValueError("broken")
        return No()

    view = PayloadView(prompt="?", answer_kind=AnswerKind.NUMBER, verifier="own")
    checks = ask_verifier(view, said("1", "2"), {"own": check})
    assert checks.warnings == (
        "verifier 'own': ValueError: broken",
        "verifier 'own': stopped by its limit of memory",
    )
    result = validate(view, said("1", "2"), {"own": check}, checks=checks)
    assert result.checks == (None, False)
    assert result.warnings == checks.warnings


def test_one_that_never_ends_is_given_up() -> None:
    """And what was said before stays; those for whom no thread is free end as well."""
    before = Checks({"1": True})
    stuck = threading.Event()

    def check() -> Checks:
        stuck.wait(60)
        return Checks()

    async def ask() -> list[Checks]:
        checking = Checking()
        return list(await asyncio.gather(*(checking.ask(check, 0.2, before) for _ in range(AT_A_TIME + 3))))

    began = time.monotonic()
    found = asyncio.run(ask())
    stuck.set()
    assert time.monotonic() - began < 30
    assert found == [Checks({"1": True}, ("the verifier gave no verdict within 0.2 s",))] * (AT_A_TIME + 3)


def tasks(*names: str, tests: str | None = "assert double(21) == 42") -> str:
    """Questions for code, each with tests."""
    payloads = {n: {"prompt": n, "answer_kind": "code", "verifier": "tests"} for n in names}
    if tests is not None:
        payloads = {n: p | {"tests": tests} for n, p in payloads.items()}
    return "".join(json.dumps({"topic": "coding", "logical_id": n, "payload": p}) + "\n" for n, p in payloads.items())


def test_hostile_programs_end_in_their_sandbox_and_the_cell_goes_on(own_broker: Broker, tmp_path: Path) -> None:
    """Each has its verdict in the round's warnings; what passes its tests is a record."""
    lines = tasks(*PROGRAMS) + tasks("untested", tests=None)
    brokers = own_broker.brokers
    assert aureon("submit", "-", cwd=tmp_path, stdin=lines, AUREON_BROKERS=brokers).returncode == 0
    options = ("--policy", "verifier", "--max-rounds", "1", "--sandbox-s", "12", "--nodes", NODES)
    done = aureon("run", "--until-idle", "2", *options, cwd=tmp_path, AUREON_BROKERS=brokers)
    assert done.returncode == 0, done.stderr
    with one_lake.connect(tmp_path / ".aureon/lake") as lake:
        records = lake.sql("SELECT logical_id, evidence, confidence FROM one").fetchall()
        dead = dict(lake.sql("SELECT logical_id, reason FROM dead_letters").fetchall())
        warned = dict(lake.sql("SELECT logical_id, array_to_string(warnings, '; ') FROM rounds").fetchall())
    assert records == [("good", "verifier", 0.99)]
    assert dead.pop("untested") == "no_tests"
    assert dead == dict.fromkeys(PROGRAMS.keys() - {"good"}, "not_accepted")
    limits = {"fork": "processes", "memory": "memory", "loop": "time", "file": "files", "socket": "network"}
    for name, limit in limits.items():
        assert f"verifier 'tests': stopped by its limit of {limit}" in warned[name]
    assert "verifier 'tests': stopped by its limit of file size" in warned["gigabyte"]
    assert "verifier 'tests': failed: the tests: AssertionError" in warned["wrong"]


def test_a_slow_verifier_keeps_nobody_else_waiting(own_broker: Broker, tmp_path: Path) -> None:
    """Rounds without one are decided meanwhile; when its time is over there is no verdict."""
    slow = json.dumps(
        {"topic": "t", "logical_id": "slow", "payload": {"prompt": "?", "verifier": "never_ends"}, "priority": 0}
    )
    quick = [json.dumps({"topic": "t", "logical_id": f"q{i}", "payload": {"prompt": "?"}}) for i in range(50)]
    brokers = own_broker.brokers
    lines = "\n".join([slow, *quick]) + "\n"
    assert aureon("submit", "-", cwd=tmp_path, stdin=lines, AUREON_BROKERS=brokers).returncode == 0
    done = aureon(
        "run", "--until-idle", "1", "--nodes", "tests.flows.refine_parts:quick_nodes", "--verifier-s", "6",
        "--verifiers", "tests.flows.refine_parts:never_ends", "--max-rounds", "1",
        cwd=tmp_path, AUREON_BROKERS=brokers,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with one_lake.connect(tmp_path / ".aureon/lake") as lake:
        ((slow_at, warned),) = lake.sql(
            "SELECT epoch(decided_at), warnings FROM rounds WHERE logical_id = 'slow'"
        ).fetchall()
        ((last_at,),) = lake.sql("SELECT max(epoch(decided_at)) FROM rounds WHERE logical_id <> 'slow'").fetchall()
    assert warned == ["the verifier gave no verdict within 6 s"]
    assert last_at < slow_at - 0.5


@pytest.mark.parametrize("kind", [AnswerKind.NUMBER, AnswerKind.CODE])
def test_an_answer_it_was_not_asked_about_has_no_verdict(kind: AnswerKind) -> None:
    """Votes may have changed since, and with them who is asked about first."""
    view = PayloadView(prompt="?", answer_kind=kind, verifier="own")
    result = validate(view, said("1", "2"), {"own": lambda _v, _a: True}, checks=Checks({"2": True}))
    assert result.answer == "2"
    assert result.checks == (None, True)


def test_a_verifier_that_would_end_the_process_or_is_late_changes_nothing_else() -> None:
    """What it raises is told, whatever it is; a verdict that comes when nobody waits any more is none."""
    before = Checks({"1": True})

    def leaves() -> Checks:
        raise SystemExit("no more")

    nobody_waits = threading.Event()

    def late() -> Checks:
        nobody_waits.wait(60)
        return Checks({"2": False})

    async def ask() -> list[Checks]:
        checking = Checking()
        found = [await checking.ask(leaves, 5.0, before), await checking.ask(late, 0.05, before)]
        slots = checking._slots
        assert slots is not None
        assert slots._value == AT_A_TIME - 1
        nobody_waits.set()
        async with asyncio.timeout(30):
            while slots._value != AT_A_TIME:  # noqa: ASYNC110 - a semaphore tells nobody
                await asyncio.sleep(0.001)
        return found

    failed, given_up = asyncio.run(ask())
    assert failed == Checks({"1": True}, ("the verifier failed: SystemExit: no more",))
    assert given_up == Checks({"1": True}, ("the verifier gave no verdict within 0.05 s",))
