"""The call ledger, on a real disk: what was told is there after the end of the process, however it came."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors import ledger as ledger_module
from connectors.ledger import LEDGER_VERSION, Begun, CallLedger, Charge, Ended, round_key
from schemas.errors import RefusedError, TryAgainError
from schemas.node import Answer, Call
from schemas.task import PromptMessage
from tests.aureon_command import finished
from tests.connectors.asked import a_call

KEY, OTHER = b"k" * 16, b"o" * 16
NAME = ("n", "m", 0)


def answer(text: str = "42", **fields: Any) -> Answer:
    """One answer of the call `NAME`."""
    return Answer(node="n", model="m", text=text, **fields)


def call(**fields: Any) -> Call:
    """One question."""
    return a_call(**{"logical_id": "a", "prompt": "?", **fields})


def on_loop(steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run some steps on an event loop."""
    asyncio.run(steps())


def durable(ledger: CallLedger, *entries: Begun | Ended) -> Awaitable[None]:
    """Add entries; done when all are durable."""
    done = asyncio.get_running_loop().create_future()
    missing = len(entries)

    def one() -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            done.set_result(None)

    for entry in entries:
        if isinstance(entry, Begun):
            ledger.begin(entry, one)
        else:
            ledger.end(entry, one)
    return done


def test_the_next_life_knows_what_was_finished_and_what_was_in_flight(tmp_path: Path) -> None:
    """A finished call is told once; one without an end counts as begun, with what was expected of it."""

    async def steps() -> None:
        ledger = CallLedger(tmp_path / "calls.sqlite")
        await durable(
            ledger,
            Begun(KEY, NAME, 100, 0.5),
            Begun(KEY, ("n", "m", 1), 100, 0.5),
            Ended(KEY, answer(tokens_in=3, tokens_out=4, cost=0.1), 7 - 100, 0.1 - 0.5),
        )
        await ledger.close()
        again = CallLedger(tmp_path / "calls.sqlite")
        assert again.has_past
        past = again.past(KEY)
        assert past is not None
        assert past.answers[NAME].text == "42"
        assert dict(past.in_flight) == {("n", "m", 1): 1}
        assert (past.calls, past.tokens, past.cost) == (2, 107, 0.6)
        assert again.past(KEY) is None
        assert again.past(OTHER) is None
        assert not again.has_past
        await again.close()

    on_loop(steps)


def test_a_failed_call_is_not_used_again(tmp_path: Path) -> None:
    """Asking again may help; what it was charged is taken back where it cost nothing, and stays where it may have."""

    async def steps() -> None:
        ledger = CallLedger(tmp_path / "calls.sqlite")
        refused, late = (answer("", status="failed", error=e) for e in ("503", "no answer within 60 s"))
        await durable(ledger, Begun(KEY, NAME, 100, 0.5), Ended(KEY, refused, -100, -0.5))
        await durable(ledger, Begun(OTHER, NAME, 100, 0.5), Ended(OTHER, late))
        await ledger.close()
        again = CallLedger(tmp_path / "calls.sqlite")
        for key, tokens, cost in ((KEY, 0, 0.0), (OTHER, 100, 0.5)):
            past = again.past(key)
            assert past is not None
            assert (past.answers, dict(past.in_flight), past.calls) == ({}, {}, 1)
            assert (past.tokens, past.cost) == (tokens, cost)

    on_loop(steps)


def test_what_was_called_back_survives_kill_9(tmp_path: Path) -> None:
    """And nothing was called back before it was in the file."""
    script = f"""
import asyncio, os
from pathlib import Path
from connectors.ledger import CallLedger, Ended
from schemas.node import Answer

async def steps():
    ledger = CallLedger(Path({str(tmp_path)!r}) / "calls.sqlite")
    for i in range(100000):
        answer = Answer(node="n", model="m", text=str(i))
        ledger.end(Ended(i.to_bytes(16, "big"), answer), lambda i=i: os.write(1, b"%d\\n" % i))
        await asyncio.sleep(0)

asyncio.run(steps())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as run:
        assert run.stdout is not None
        said = [run.stdout.readline() for _ in range(500)]
        run.kill()
        said += run.stdout.readlines()
    told = [int(line) for line in said if line.endswith(b"\n")]
    ledger = CallLedger(tmp_path / "calls.sqlite")
    assert len(told) >= 500
    for number in told:
        past = ledger.past(number.to_bytes(16, "big"))
        assert past is not None
        assert past.answers[NAME].text == str(number)


def test_what_is_decided_is_forgotten_and_what_is_not_stays(tmp_path: Path) -> None:
    """Only commits of this life, below what every lane still needs; those of lives before go by age."""

    async def steps() -> None:
        before = CallLedger(tmp_path / "calls.sqlite")
        await durable(before, Ended(OTHER, answer("from before")))
        await before.close()
        ledger = CallLedger(tmp_path / "calls.sqlite")
        ledger.keep_from(1, ledger.position)
        for number in range(60):
            await durable(ledger, Ended(number.to_bytes(16, "big"), answer(str(number))))
        ledger.keep_from(1, ledger.position)
        ledger.keep_from(2, ledger.position - 5)
        for _ in range(60):
            await durable(ledger, Ended(KEY, answer("late")))
        await ledger.close()
        again = CallLedger(tmp_path / "calls.sqlite")
        known = [n for n in range(60) if again.past(n.to_bytes(16, "big")) is not None]
        assert known == list(range(55, 60))
        assert again.past(KEY) is not None
        assert again.past(OTHER) is not None
        await again.close()
        assert not CallLedger(tmp_path / "calls.sqlite", max_age_s=0.0).has_past

    on_loop(steps)


def test_a_clock_that_is_set_forth_makes_nothing_of_this_life_old(tmp_path: Path) -> None:
    """Its rounds may be undecided, and a finished call is not paid again."""

    async def steps() -> None:
        ledger = CallLedger(tmp_path / "calls.sqlite", max_age_s=0.0)
        ledger.keep_from(1, 0)
        for number in range(120):
            await durable(ledger, Ended(number.to_bytes(16, "big"), answer(str(number))))
        await ledger.close()
        again = CallLedger(tmp_path / "calls.sqlite")
        assert [n for n in range(120) if again.past(n.to_bytes(16, "big")) is not None] == list(range(120))
        await again.close()

    on_loop(steps)


def test_the_file_is_bounded(tmp_path: Path) -> None:
    """The older half goes when it is too much, needed or not."""

    async def steps() -> None:
        ledger = CallLedger(tmp_path / "calls.sqlite", max_bytes=100_000)
        ledger.keep_from(1, 0)
        for number in range(400):
            await durable(ledger, Ended(number.to_bytes(16, "big"), answer("x" * 1000)))
        await ledger.close()
        assert (tmp_path / "calls.sqlite").stat().st_size < 400_000
        assert ledger.bytes_on_disk() == sum(entry.stat().st_size for entry in os.scandir(tmp_path))
        again = CallLedger(tmp_path / "calls.sqlite")
        assert again.past((399).to_bytes(16, "big")) is not None
        assert again.past((0).to_bytes(16, "big")) is None
        await again.close()

    on_loop(steps)


def test_two_processes_of_a_cell_share_the_file(tmp_path: Path) -> None:
    """Neither forgets what the other one needs."""

    async def steps() -> None:
        one, two = (CallLedger(tmp_path / "calls.sqlite") for _ in range(2))
        await durable(one, Ended(KEY, answer("one's")))
        for _ in range(120):
            await asyncio.gather(durable(two, Ended(OTHER, answer("two's"))))
            two.keep_from(1, two.position)
        await one.close()
        await two.close()
        assert CallLedger(tmp_path / "calls.sqlite").past(KEY) is not None

    on_loop(steps)


def test_a_file_that_another_process_recovers_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says busy at once then, and the file is not to be deleted for that."""
    path = tmp_path / "calls.sqlite"
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("PRAGMA journal_mode = WAL")
    holder.execute("CREATE TABLE other (x)")
    monkeypatch.setattr(ledger_module, "BUSY_S", 0.1)
    with pytest.raises(TryAgainError, match=r"calls\.sqlite: database is locked: another process"):
        CallLedger(path)
    monkeypatch.setattr(ledger_module, "BUSY_S", 10.0)
    release = threading.Timer(0.3, holder.close)
    release.start()
    CallLedger(path)
    release.join()


def test_a_day_s_charges_add_up_by_lane(tmp_path: Path) -> None:
    """Over several lives; corrections may take back."""

    async def steps() -> None:
        for _ in range(2):
            ledger = CallLedger(tmp_path / "calls.sqlite")
            ledger.charge(Charge("2026-01-01", 3, 1, 100, 0.5))
            ledger.charge(Charge("2026-01-01", 3, 0, -40, -0.25))
            ledger.charge(Charge("2026-01-02", 3, 1, 7, 0.0))
            await durable(ledger, Begun(KEY, NAME))
            await ledger.close()
        ledger = CallLedger(tmp_path / "calls.sqlite")
        assert ledger.spent_on("2026-01-01") == {3: (2, 120, 0.5)}
        assert ledger.spent_on("2026-01-03") == {}

    on_loop(steps)


def test_a_file_that_is_no_ledger_is_refused_with_the_cure(tmp_path: Path) -> None:
    """It names the file, and what deleting it would cost."""
    path = tmp_path / "calls.sqlite"
    path.write_bytes(b"this is not a database, and it is long enough to be seen as none" * 20)
    with pytest.raises(RefusedError, match=r"calls\.sqlite: file is not a database; delete the file"):
        CallLedger(path)


def test_a_commit_of_another_version_is_refused(tmp_path: Path) -> None:
    """Rather than read as if nothing had been paid."""
    CallLedger(tmp_path / "calls.sqlite")
    with sqlite3.connect(tmp_path / "calls.sqlite") as db:
        values = ("other", time.time(), 5, os.urandom(5))
        db.execute("INSERT INTO commits (writer, at, size, body) VALUES (?, ?, ?, ?)", values)
    db.close()
    with pytest.raises(RefusedError, match=r"commit 1 cannot be read"):
        CallLedger(tmp_path / "calls.sqlite")


def test_a_commit_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """Also where it could be read."""
    CallLedger(tmp_path / "calls.sqlite")
    body = msgspec.msgpack.encode([LEDGER_VERSION + 1, [], [], "more"])
    with sqlite3.connect(tmp_path / "calls.sqlite") as db:
        values = ("other", time.time(), len(body), body)
        db.execute("INSERT INTO commits (writer, at, size, body) VALUES (?, ?, ?, ?)", values)
    db.close()
    with pytest.raises(RefusedError, match=rf"commit 1 has version {LEDGER_VERSION + 1}, and this software reads"):
        CallLedger(tmp_path / "calls.sqlite")


def test_a_ledger_that_cannot_be_written_says_so_and_calls_nothing_back(tmp_path: Path) -> None:
    """An answer that is not durable is not acted on."""

    async def steps() -> None:
        ledger = CallLedger(tmp_path / "calls.sqlite")
        ledger._db.execute("DROP TABLE commits")
        called = False

        def then() -> None:
            nonlocal called
            called = True

        ledger.end(Ended(KEY, answer()), then)
        await ledger.close()
        assert isinstance(ledger.failed, TryAgainError)
        assert not called

    on_loop(steps)


def test_a_commit_that_fails_halfway_leaves_nothing(tmp_path: Path) -> None:
    """Neither its answer nor a lock on the file."""

    async def steps() -> None:
        ledger = CallLedger(tmp_path / "calls.sqlite")
        ledger._db.execute("DROP TABLE days")
        ledger.charge(Charge("2026-01-01", 3, 1, 100, 0.5))
        ledger.end(Ended(KEY, answer()), lambda: None)
        assert ledger._writer is not None
        await asyncio.wait([ledger._writer])
        assert isinstance(ledger.failed, TryAgainError)
        assert not ledger._db.in_transaction
        again = CallLedger(tmp_path / "calls.sqlite")
        assert again.past(KEY) is None
        await durable(again, Ended(OTHER, answer()))
        await again.close()
        await ledger.close()

    on_loop(steps)


def test_an_answer_that_comes_while_the_interpreter_ends_is_kept(tmp_path: Path) -> None:
    """By then no executor takes work any more."""
    code = """
import asyncio, atexit, pathlib, threading
from connectors.ledger import Begun, CallLedger

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()

async def made():
    return CallLedger(pathlib.Path("calls.sqlite"))

async def begin(sample):
    ledger.begin(Begun(b"k", ("n", "m", sample)))

def wait_for(what):
    return asyncio.run_coroutine_threadsafe(what, loop).result(30)

def end():
    wait_for(begin(1))
    wait_for(ledger.close())

ledger = wait_for(made())
wait_for(begin(0))
atexit.register(end)
"""
    done = finished("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")

    async def steps() -> None:
        again = CallLedger(tmp_path / "calls.sqlite")
        past = again.past(b"k")
        assert past is not None
        assert past.in_flight == {NAME: 1, ("n", "m", 1): 1}
        await again.close()

    on_loop(steps)


def test_calls_that_differ_in_anything_are_other_rounds() -> None:
    """Topic, id, generation, round, attempt, the prompt and the chat around it; node, model and sample are apart."""
    chat = (PromptMessage("user", "?"),)
    different = [
        call(),
        call(topic="logic"),
        call(logical_id="b"),
        call(generation=1),
        call(round_index=1),
        call(attempt=1),
        call(prompt="??"),
        call(messages=chat),
        call(messages=(*chat, PromptMessage("assistant", "!"))),
        call(messages=(PromptMessage("system", "?"),)),
        call(prompt="\ud800"),
    ]
    assert len({round_key(c) for c in different}) == len(different)
    assert round_key(call(node="x", model="y", sample=3)) == round_key(call())
