"""Rounds of calls: each is answered, by its reserves where it must be; nothing is asked twice, nor after a cancel."""

import gc
import sqlite3
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flows.budget import NOTHING
from flows.calls import CallRunner, LaneCalls
from flows.checks import AT_A_TIME, Checks
from flows.items import Routed, Work
from flows.lane import Message
from schemas.errors import TryAgainError
from schemas.task import Allowance, read_task
from tests.aureon_command import until
from tests.flows.call_parts import (
    MESSAGE,
    TASK,
    VIEW,
    ScriptedNode,
    answered,
    answers,
    call,
    fails,
    hangs,
    routed,
    runner_of,
)

CHECKED = msgspec.structs.replace(MESSAGE, body=Work(TASK, msgspec.structs.replace(VIEW, verifier="own")))


def test_a_call_that_fails_for_good_is_replaced_by_the_next_reserve() -> None:
    """Its failure stays as evidence; the round ends with who could serve."""
    bad, good = ScriptedNode(fails), ScriptedNode(answers, name="spare")
    with runner_of(bad, good, tries=2) as runner:
        (found,) = answered(runner, routed(call(), reserves=(call(node="spare"), call(1, node="spare"))))
    assert [(a.node, a.status) for a in found.answers] == [("n", "failed"), ("spare", "ok")]
    assert (bad.tries, good.tries) == (2, 1)
    assert found.spent.calls == 3


def test_a_round_that_escalates_asks_its_reserves_one_by_one_until_it_has_enough() -> None:
    """And no more than that."""
    nodes = [ScriptedNode(answers, name=f"n{i}") for i in range(4)]
    calls = tuple(call(node=f"n{i}") for i in range(4))
    with runner_of(*nodes, tries=1, enough=lambda _routed, given, _checks: len(given) >= 3) as runner:
        (found,) = answered(runner, routed(calls[0], reserves=calls[1:], escalates=True))
        assert len(found.answers) == 3
    assert [n.tries for n in nodes] == [1, 1, 1, 0]


# -- the ledger ----------------------------------------------------------------------------------------------------


def test_a_finished_call_is_not_asked_again_in_the_next_life(tmp_path: Path) -> None:
    """One that failed is; and the round's count of calls knows both lives."""
    good, bad = ScriptedNode(answers), ScriptedNode(fails, answers, name="bad")
    round_ = routed(call(), call(node="bad"))
    with runner_of(good, bad, tries=1, folder=tmp_path) as runner:
        answered(runner, round_)
    with runner_of(good, bad, tries=1, folder=tmp_path) as runner:
        (found,) = answered(runner, round_)
        assert [a.status for a in found.answers] == ["ok", "ok"]
        (other,) = answered(runner, routed(msgspec.structs.replace(call(), prompt="another")))
        assert other.answers[0].status == "ok"
    assert (good.tries, bad.tries) == (2, 2)


def test_the_runner_tells_what_it_had_from_the_ledger_and_what_it_asked_again(tmp_path: Path) -> None:
    """A call in flight at the end of a life may have cost something."""
    good, slow = ScriptedNode(answers), ScriptedNode(hangs, answers, name="slow", timeout_s=60)
    round_ = routed(call(), call(node="slow"))
    with runner_of(good, slow, tries=1, folder=tmp_path) as runner:
        runner.submit(runner.new_lane(), [round_])
        while not (good.tries and slow.tries):
            time.sleep(0.005)
    with runner_of(good, slow, tries=1, folder=tmp_path) as runner:
        (found,) = answered(runner, round_)
        assert runner.told_twice() == (1, 1)
    assert (good.tries, slow.tries) == (1, 2)
    assert found.spent.calls == 3


def test_what_was_begun_before_goes_before_what_the_router_would_choose_now(tmp_path: Path) -> None:
    """An answer that was paid for is used, although another model leads by now."""
    one, two = ScriptedNode(answers, name="one"), ScriptedNode(answers, name="two")
    with runner_of(one, two, tries=1, folder=tmp_path) as runner:
        answered(runner, routed(call(node="one"), reserves=(call(node="two"),)))
    with runner_of(one, two, tries=1, folder=tmp_path) as runner:
        answered(runner, routed(call(node="two"), reserves=(call(node="one"),)))
    assert (one.tries, two.tries) == (1, 0)


def test_no_answer_is_passed_on_that_the_ledger_could_not_keep(tmp_path: Path) -> None:
    """The lane is told why."""
    with runner_of(ScriptedNode(answers), tries=1, folder=tmp_path) as runner:
        answered(runner, routed(call()))
        with sqlite3.connect(tmp_path / "calls.sqlite") as db:
            db.execute("DROP TABLE commits")
        db.close()
        lane = runner.new_lane()
        runner.submit(lane, [routed(call(5))])
        deadline = time.monotonic() + 60
        while runner._ledger.failed is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(TryAgainError, match="no answer can be kept"):
            runner.check()
        assert not lane.outbox


def test_a_lane_without_rounds_keeps_nothing_in_the_ledger(tmp_path: Path) -> None:
    """However much another one does."""
    with runner_of(ScriptedNode(answers, max_concurrency=100), tries=1, folder=tmp_path) as runner:
        quiet, busy = runner.new_lane(), runner.new_lane()
        runner.submit(quiet, [routed(call(999))])
        while not quiet.outbox:
            time.sleep(0.005)
        for _ in range(3):
            runner.snapshot(quiet)
        for number in range(120):
            runner.submit(busy, [routed(call(number))])
            while len(busy.outbox) <= number:
                time.sleep(0.001)
            runner.snapshot(busy)
        time.sleep(0.1)
        (kept,) = runner._ledger._db.execute("SELECT count(*) FROM commits").fetchone()
    assert kept < 100


# -- cancels -------------------------------------------------------------------------------------------------------


def test_a_cancelled_task_s_calls_are_abandoned_and_none_begins(tmp_path: Path) -> None:
    """Those of other tasks go on."""
    cancelled = False
    node, quick = ScriptedNode(hangs, timeout_s=600, max_concurrency=2), ScriptedNode(answers, name="quick")
    other_task, _ = read_task(b'{"topic": "math", "logical_id": "b", "payload": {"prompt": "?"}}')
    other = Message(kafka_topic="t", offset=1, task_id="b:r0", body=Work(other_task, VIEW))
    with runner_of(
        node, quick, tries=1, folder=tmp_path, is_cancelled=lambda task: cancelled and task is TASK
    ) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [routed(call(i)) for i in range(5)])
        while node.tries < 2:
            time.sleep(0.005)
        cancelled = True
        runner.cancel()
        deadline = time.monotonic() + 60
        while len(lane.outbox) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert all(found.cancelled for found in lane.outbox)
        (late,) = answered(runner, routed(call(9)))
        assert late.cancelled
        (going_on,) = answered(runner, Routed(other, 0.0, tuple([call(i, "quick") for i in range(5)])))
        assert [a.status for a in going_on.answers] == ["ok"] * 5
        time.sleep(0.1)
        assert node.tries == 2
        assert runner._watch.gates["n"].active == 0


def test_a_call_that_is_cancelled_before_it_has_begun_leaves_nothing_behind() -> None:
    """Nobody looks at it for ever."""
    cancelled = False
    with runner_of(ScriptedNode(hangs, timeout_s=60), tries=1, is_cancelled=lambda _task: cancelled) as runner:
        runner.start()
        lane = runner.new_lane()

        def both() -> None:
            nonlocal cancelled
            runner._open_all(lane, [routed(call())])
            cancelled = True
            runner._cancel_rounds()

        assert runner._loop is not None
        runner._loop.call_soon_threadsafe(both)
        until(lambda: lane.outbox and not runner._tries._under_way and not runner._tries._looking)
        assert [found.cancelled for found in lane.outbox] == [True]


def test_calls_in_flight_when_their_task_is_cancelled_are_counted() -> None:
    """They may have cost something."""
    cancelled = False
    node = ScriptedNode(hangs, timeout_s=60, max_concurrency=2)
    with runner_of(node, tries=1, is_cancelled=lambda _task: cancelled) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [routed(call(), call(1), call(2))])
        while node.tries < 2:
            time.sleep(0.005)
        cancelled = True
        runner.cancel()
        while not lane.outbox:
            time.sleep(0.005)
        assert lane.outbox[0].spent.calls == 2


# -- a lane that goes elsewhere ------------------------------------------------------------------------------------


def test_the_rounds_of_a_lane_that_is_lost_are_dropped_and_those_of_another_go_on() -> None:
    """Each comes back, so that nobody waits for it; the dropped ones are nobody's to decide here."""
    slow = ScriptedNode(hangs, timeout_s=60)
    elsewhere = msgspec.structs.replace(MESSAGE, lane=7)
    with runner_of(slow, tries=1) as runner:
        lane = runner.new_lane()
        runner.drop(7)
        runner.submit(lane, [Routed(elsewhere, 0.0, (call(),)), routed(call(1))])
        until(lambda: slow.tries == 2)
        runner.drop(7)
        until(lambda: lane.outbox)
        assert [(f.routed.message.lane, f.dropped) for f in lane.outbox] == [(7, True)]
        assert runner.open_rounds == 1


def busy(runner: CallRunner, lane: LaneCalls, count: int) -> None:
    """Let other rounds pass, a commit each and a snapshot after it, so that the ledger forgets what it may."""
    for number in range(count):
        runner.submit(lane, [routed(msgspec.structs.replace(call(), prompt=f"another: {number}"))])
        until(lambda: lane.outbox)
        lane.outbox.clear()
        runner.snapshot(lane)


def test_what_was_paid_for_is_not_paid_again_when_a_lost_lane_is_back(tmp_path: Path) -> None:
    """Nor in a life after that: the ledger keeps it as long as the round is undecided here."""
    good = ScriptedNode(answers, max_concurrency=100)
    slow = ScriptedNode(hangs, hangs, answers, name="slow", timeout_s=60)
    round_ = routed(call(), call(node="slow"))
    with runner_of(good, slow, tries=1, folder=tmp_path) as runner:
        lane, other = runner.new_lane(), runner.new_lane()

        def is_half_answered(tries: int) -> bool:
            return slow.tries == tries and next(iter(lane.open)).answers[0] is not None

        for tries in (1, 2):
            runner.submit(lane, [round_])
            until(partial(is_half_answered, tries))
            if tries == 1:
                runner.drop(MESSAGE.lane)
                until(lambda: lane.outbox)
                assert lane.outbox.popleft().dropped
            for _ in range(4):
                runner.snapshot(lane)
            before = good.tries
            busy(runner, other, 60)
            assert good.tries == before + 60
        assert good.tries == 121
    with runner_of(good, slow, tries=1, folder=tmp_path) as runner:
        (found,) = answered(runner, round_)
    assert (good.tries, slow.tries) == (121, 3)
    assert found.spent.calls == 4


def test_the_budget_of_a_round_knows_what_it_took_before_its_lane_was_lost() -> None:
    """And nothing is held for ever for a lane that stays away."""
    good, slow = ScriptedNode(answers), ScriptedNode(hangs, name="slow", timeout_s=60)
    round_ = msgspec.structs.replace(routed(call(), call(node="slow")), allowance=Allowance(calls=3))
    with runner_of(good, slow, tries=1) as runner:
        lane = runner.new_lane()
        for _ in range(2):
            before = slow.tries
            runner.submit(lane, [round_])
            until(partial(lambda before: slow.tries > before and good.tries == 1, before))
            runner.drop(MESSAGE.lane)
            until(lambda: lane.outbox)
            assert lane.outbox.popleft().dropped
        runner.submit(lane, [round_])
        until(lambda: lane.outbox)
        (found,) = lane.outbox
        assert found.exceeded == "the budget of 3 calls is spent"
        assert (good.tries, slow.tries, found.spent.calls) == (1, 2, 3)


def test_what_a_lane_left_is_forgotten_when_it_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another cell has decided it by then."""
    monkeypatch.setattr("flows.calls.LEFT_S", 0.0)
    slow = ScriptedNode(hangs, timeout_s=60)
    with runner_of(slow, tries=1) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [routed(call())])
        until(lambda: slow.tries == 1)
        runner.drop(MESSAGE.lane)
        until(lambda: lane.outbox)
        assert runner._ledger.has_past
        runner.snapshot(runner.new_lane())
        until(lambda: not runner._ledger.has_past)
        assert not lane.left


def test_what_was_paid_for_a_round_that_is_cancelled_before_the_next_life_is_told(tmp_path: Path) -> None:
    """With the answers that there were; nothing more is asked."""
    node = ScriptedNode(answers, hangs, timeout_s=60)
    with runner_of(node, tries=1, folder=tmp_path) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [routed(call(), call(1))])
        until(lambda: node.tries == 2 and any(round_.given() for round_ in list(lane.open)))
    with runner_of(node, tries=1, folder=tmp_path, is_cancelled=lambda _task: True) as runner:
        (found,) = answered(runner, routed(call(), call(1)))
    assert (node.tries, found.cancelled, found.spent.calls) == (2, True, 2)
    assert [answer.text for answer in found.answers] == ["42"]


def test_what_nobody_expects_ends_the_process_and_no_round_waits_for_ever() -> None:
    """Wherever in the loop it is raised."""
    escalating = Routed(MESSAGE, 0.0, (call(),), (call(1),), escalates=True)
    checked = msgspec.structs.replace(escalating, message=CHECKED)

    def breaks(*_: object) -> bool:
        raise ValueError("a policy of one's own")

    def is_told(runner: CallRunner) -> bool:
        try:
            runner.check()
        except ValueError as error:
            return str(error) == "a policy of one's own"
        return False

    parts: dict[str, dict[str, Any]] = {
        "opening": {"is_cancelled": breaks},
        "judging": {"enough": breaks, "check": lambda *_: Checks()},
        "answering": {"enough": breaks},
    }
    for where, given in parts.items():
        with runner_of(ScriptedNode(answers), tries=1, **given) as runner:
            runner.submit(runner.new_lane(), [checked if where == "judging" else escalating])
            until(partial(is_told, runner))
    with runner_of(ScriptedNode(answers), tries=1) as runner:
        runner.start()
        runner._tries._take = breaks  # type: ignore[assignment]
        runner.submit(runner.new_lane(), [routed(call(node="gone"))])
        until(partial(is_told, runner))


def test_a_verifier_that_cannot_be_begun_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process may have no more threads; the round goes on, and the next one has its turn."""
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name == "verifier":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    rounds = [Routed(CHECKED, 0.0, (call(i),)) for i in range(2 * AT_A_TIME)]
    with runner_of(ScriptedNode(answers), tries=1, check=lambda *_: Checks()) as runner:
        found = answered(runner, *rounds)
    failed = Checks(warnings=("the verifier failed: RuntimeError: can't start new thread",))
    assert [each.checks for each in found] == [failed] * len(rounds)


def test_before_its_first_call_a_runner_has_nothing_to_do_and_it_starts_once() -> None:
    """Whoever asks for what: the lanes of a process begin at the same time, and end an epoch without a round."""
    with runner_of(ScriptedNode(answers), tries=1) as runner:
        runner.cancel()
        runner.drop(0)
        runner.snapshot(runner.new_lane())
        assert (runner.gates, runner.ledger, runner.told_twice()) == ({}, None, (0, 0))
        assert runner.spent_today([0]) == NOTHING
        runner.start()
        first = runner._thread
        runner.start()
        assert runner._thread is first
        runner.snapshot(runner.new_lane())
        (found,) = answered(runner, routed(call()))
        assert found.answers[0].text == "42"


def test_a_round_that_is_cancelled_while_its_verifier_looks_is_not_gone_on_with(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has ended by then, and it ends once."""
    gc.collect()  # what tests before have left is theirs to tell
    caplog.clear()
    looks, cancelled, has_looked = threading.Event(), threading.Event(), threading.Event()

    def check(*_: object) -> Checks:
        looks.set()
        has_looked.wait(60)
        return Checks()

    with runner_of(
        ScriptedNode(answers), tries=1, check=check, check_s=60, is_cancelled=lambda _task: cancelled.is_set()
    ) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [Routed(CHECKED, 0.0, (call(),))])
        assert looks.wait(60)
        cancelled.set()
        runner.cancel()
        until(lambda: lane.outbox)
        has_looked.set()
        until(lambda: not runner._judging)
        assert [found.cancelled for found in lane.outbox] == [True]
    gc.collect()
    assert not caplog.records, "the verdict was acted on"
