"""Calls with their tries: whatever a node does, its call ends; topics take turns at its seats."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Any

import msgspec
import pytest

from connectors.nodes import NodeError
from flows.calls import CallRunner
from flows.items import Routed, Work
from flows.lane import Message
from schemas.node import Answer, Call, NodeHealth, NodeReport
from schemas.task import TaskDescriptor, read_task
from tests.aureon_command import until
from tests.flows.call_parts import OK, ScriptedNode, answered, answers, call, fails, hangs, routed, runner_of, takes


async def tidies_up_slowly() -> Answer:
    """Takes longer over it than it is looked whether a call has taken too long."""
    try:
        return await hangs()
    finally:
        await asyncio.sleep(0.3)


async def will_not_be_cancelled() -> Answer:
    """Answers all the same, too late."""
    try:
        return await hangs()
    except asyncio.CancelledError:
        return OK


async def cancels_itself() -> Answer:
    """As a pool does that drops what waits in it."""
    raise asyncio.CancelledError


async def returns_text() -> Any:
    """Which is no answer."""
    return "42"


def waits_for(event: threading.Event) -> Callable[[], Awaitable[Answer]]:
    """A part of a script that takes until a test says so."""

    async def part() -> Answer:
        await asyncio.to_thread(event.wait, 60)
        return OK

    return part


def ask(runner: CallRunner, calls: int = 1) -> tuple[Answer, ...]:
    """Ask one round of one node, and wait for its answers."""
    return answered(runner, routed(*(call(i) for i in range(calls))))[0].answers


@pytest.mark.parametrize(
    "part,error",
    [
        (hangs, "TimeoutError: no answer within 0.1 s"),
        (tidies_up_slowly, "TimeoutError: no answer within 0.1 s"),
        (cancels_itself, "NodeError: the node cancelled the call"),
        (fails, "NodeError: 503"),
        (returns_text, "NodeError: the node returned str, which is no Answer"),
    ],
)
def test_a_call_that_fails_is_tried_again_and_in_the_end_says_why(
    part: Callable[[], Awaitable[Any]], error: str
) -> None:
    """Its round is answered, and the next call of the node as well."""
    node = ScriptedNode(part, part, part, part, answers)
    with runner_of(node, tries=2) as runner:
        (answer,) = ask(runner)
        assert (answer.status, answer.error, answer.tries) == ("failed", error, 2)
        (mended,) = ask(runner)
        assert (mended.status, mended.tries) == ("failed", 2)
        (good,) = ask(runner)
        assert (good.status, good.text, good.tries) == ("ok", "42", 1)


def test_one_that_will_not_be_cancelled_may_answer_late_and_time_out_later() -> None:
    """What is left of one time-out does not end the next one."""
    node = ScriptedNode(will_not_be_cancelled, hangs, answers)
    with runner_of(node, tries=2) as runner:
        assert ask(runner)[0].tries == 1
        (answer,) = ask(runner)
        assert (answer.status, answer.tries) == ("ok", 2)


def test_answers_come_in_the_order_of_the_calls_and_within_the_limit_of_the_node() -> None:
    """However long each takes."""
    under_way = most = 0

    async def counts() -> Answer:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await asyncio.sleep(0.01)
        finally:
            under_way -= 1
        return OK

    with runner_of(ScriptedNode(counts, max_concurrency=3), tries=1) as runner:
        given = ask(runner, calls=10)
    assert [a.sample for a in given] == list(range(10))
    assert most == 3


def test_calls_that_are_answered_at_once_share_a_task_and_one_that_waits_holds_up_none() -> None:
    """However they end, and in whichever order they come."""
    tasks: list[asyncio.Task[Any] | None] = []
    last = asyncio.Event()

    async def waits_for_the_last() -> Answer:
        await last.wait()
        return OK

    parts = (waits_for_the_last, hangs, answers, cancels_itself, will_not_be_cancelled, fails, tidies_up_slowly)

    class Mixed(ScriptedNode):
        async def ask(self, call: Call) -> Answer:
            part = parts[call.sample] if call.sample < len(parts) else answers
            if part is answers:
                tasks.append(asyncio.current_task())
            if call.sample == 79:
                last.set()
            return await part()

    with runner_of(Mixed(max_concurrency=100, timeout_s=1.0), tries=1) as runner:
        given = ask(runner, calls=80)
        assert len(set(tasks)) < 10, "one for all behind the last that waits"
        at_once = answered(runner, *[routed(call(99)) for _ in range(50)])
        assert len(set(tasks[-50:])) == 1
        assert runner._watch.gates["n"].active == 0
    assert [a.sample for a in given] == list(range(80))
    errors = ["", "Timeout", "", "the node cancelled the call", "", "503", "Timeout"]
    assert [bool(a.error) for a in given] == [bool(e) for e in errors] + [False] * 73
    assert all(error in a.error for error, a in zip(errors, given, strict=False))
    assert all(one.answers[0].status == "ok" for one in at_once)


def test_a_node_that_tidies_up_after_a_cancelled_call_is_left_to_it() -> None:
    """Whatever else is cancelled meanwhile."""
    cancelled = has_tidied_up = False

    async def tidies_up() -> Answer:
        nonlocal has_tidied_up
        try:
            return await hangs()
        finally:
            await asyncio.sleep(0.2)
            has_tidied_up = True

    node = ScriptedNode(tidies_up, timeout_s=60)
    with runner_of(node, tries=1, is_cancelled=lambda _task: cancelled) as runner:
        runner.submit(runner.new_lane(), [routed(call())])
        until(lambda: node.tries == 1)
        cancelled = True
        for _ in range(3):
            runner.cancel()
            time.sleep(0.02)
        until(lambda: has_tidied_up)


def test_the_end_abandons_what_is_open() -> None:
    """Without waiting for its time-out, and without another try."""
    node = ScriptedNode(hangs, timeout_s=60)
    with runner_of(node, tries=3) as runner:
        runner.submit(runner.new_lane(), [routed(call())])
        while not node.tries:
            time.sleep(0.005)
        began = time.monotonic()
    assert time.monotonic() - began < 30
    assert node.tries == 1


def test_a_request_that_is_at_fault_is_not_tried_again() -> None:
    """A node that rejects it will do so the next time too."""

    async def rejects() -> Answer:
        raise NodeError("400: no such model", "rejected")

    node = ScriptedNode(rejects)
    with runner_of(node, tries=3) as runner:
        (answer,) = ask(runner)
    assert (answer.status, node.tries) == ("failed", 1)


# -- breakers, silence, seats elsewhere ----------------------------------------------------------------------------


class ListedNode(ScriptedNode):
    """One that can be asked how it is; `hears` says whether it then answers."""

    hears = True

    async def check(self) -> NodeReport:
        """Say so, or nothing."""
        if not self.hears:
            raise NodeError("no connection", "refused")
        return NodeReport(models=("m",), loaded=("m",))


def test_a_node_that_fails_again_and_again_costs_nobody_anything_while_others_can_serve(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a row of failures it is not asked, which is said; a probe finds out when it is back."""
    broken = True

    async def sometimes() -> Answer:
        if broken:
            raise NodeError("500", "server_error")
        return OK

    bad, good = ScriptedNode(sometimes, name="bad"), ScriptedNode(answers)
    with runner_of(bad, good, tries=1) as runner:
        rounds = [routed(call(i), call(i, node="bad")) for i in range(5)]
        answered(runner, *rounds)
        asked, breaker = bad.tries, runner.gates["bad"].breakers["m"]
        assert not breaker.is_closed
        breaker.open_until = time.monotonic() + 1000.0
        later = answered(runner, *[routed(call(i), call(i, node="bad")) for i in range(50)])
        assert bad.tries == asked
        assert {a.status for found in later for a in found.answers} == {"ok", "failed"}
        assert all("asked again soon" in found.answers[1].error for found in later)
        assert all(found.answers[1].tries == 0 for found in later)
        assert runner.states["bad"].health is NodeHealth.UNHEALTHY
        assert runner.states["bad"].open == ("m",)
        broken = False
        breaker.open_until = time.monotonic()
        answered(runner, routed(call(90), call(90, node="bad")))
        (mended,) = answered(runner, routed(call(91), call(91, node="bad")))
        assert [a.status for a in mended.answers] == ["ok", "ok"]
        broken = True
        answered(runner, *[routed(call(100 + i), call(100 + i, node="bad")) for i in range(10)])
        assert not runner.gates["bad"].is_open("m")
    told = "bad: m failed too often, and is asked again now and then; the last time: NodeError: 500"
    assert caplog.messages == [told], "once in a while is enough"


def test_where_nobody_else_can_serve_calls_wait_for_the_node() -> None:
    """An outage shorter than a call may take fails no round."""
    broken = True

    async def sometimes() -> Answer:
        if broken:
            raise NodeError("refused", "refused")
        return OK

    node = ScriptedNode(sometimes, timeout_s=20)
    with runner_of(node, tries=1) as runner:
        failed = answered(runner, *[routed(call(i)) for i in range(5)])
        assert {f.answers[0].status for f in failed} == {"failed"}
        lane = runner.new_lane()
        runner.submit(lane, [routed(call(i)) for i in range(20)])
        time.sleep(0.5)
        assert not lane.outbox
        broken = False
        deadline = time.monotonic() + 60
        while len(lane.outbox) < 20:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert {f.answers[0].status for f in lane.outbox} == {"ok"}


def test_retry_after_is_honoured_and_the_node_left_alone_meanwhile() -> None:
    """By the call that was told, and by others that somebody else can serve."""

    async def pushes_back() -> Answer:
        raise NodeError("429", "rate_limited", retry_after_s=3.0)

    node = ScriptedNode(pushes_back, answers, name="n", timeout_s=5)
    spare = ScriptedNode(answers, name="spare")
    with runner_of(node, spare, tries=2) as runner:
        lane = runner.new_lane()
        began = time.monotonic()
        runner.submit(lane, [routed(call())])
        until(lambda: "n" in runner.gates and runner.gates["n"].is_rate_limited(time.monotonic()))
        (other,) = answered(runner, routed(call(1), call(1, node="spare")))
        assert not lane.outbox
        assert "left alone" in other.answers[0].error
        while not lane.outbox:
            time.sleep(0.005)
        assert time.monotonic() - began >= 3.0
        assert lane.outbox[0].answers[0].tries == 2


def test_a_node_that_is_not_heard_of_gives_its_calls_to_others() -> None:
    """Long before they would have timed out; it is taken back once it is heard of again."""
    hung, good = ListedNode(hangs, answers, name="hung", timeout_s=60), ListedNode(answers)
    hung.hears = False
    with runner_of(hung, good, tries=1, silence_s=1.0) as runner:
        began = time.monotonic()
        (found,) = answered(runner, routed(call(node="hung"), reserves=(call(),)))
        assert time.monotonic() - began < 30
        assert "not heard of" in found.answers[0].error
        assert found.answers[1].status == "ok"
        assert runner.states["hung"].health is NodeHealth.UNHEALTHY
        hung.hears = True
        until(lambda: not runner.gates["hung"].silent)
        (mended,) = answered(runner, routed(call(1, node="hung")))
        assert mended.answers[0].status == "ok"
        assert runner.states["hung"].last_seen > 0


def test_a_call_does_not_wait_for_a_node_that_is_far_slower_than_the_rest_of_its_round() -> None:
    """It goes to who serves sooner."""

    async def slowly() -> Answer:
        await asyncio.sleep(0.5)
        return OK

    full, spare = ScriptedNode(slowly, max_concurrency=1, timeout_s=5), ScriptedNode(answers, name="spare")
    with runner_of(full, spare, tries=1) as runner:
        answered(runner, routed(call(99)))
        found = answered(runner, *[routed(call(i), reserves=(call(i, node="spare"),)) for i in range(20)])
    served = [a.status for f in found for a in f.answers]
    assert 2 <= full.tries <= 5
    assert full.tries + spare.tries == 21
    assert served.count("ok") == 20


def test_nodes_that_are_all_at_full_load_are_all_waited_for() -> None:
    """A backlog is no reason to do without a vote."""

    async def quick() -> Answer:
        await asyncio.sleep(0.02)
        return OK

    nodes = [ScriptedNode(quick, name=f"n{i}", max_concurrency=2, timeout_s=5) for i in range(3)]
    with runner_of(*nodes, tries=1) as runner:
        calls = [routed(*(call(i, node=f"n{n}") for n in range(3))) for i in range(300)]
        found = answered(runner, *calls, limit_s=60)
    assert {a.error for f in found for a in f.answers} == {""}  # says why, where a node was done without
    assert [n.tries for n in nodes] == [300, 300, 300]


def test_a_backlog_leaves_no_round_with_one_vote_alone() -> None:
    """Where a node is far slower than the others its queue is not waited for, but by who would have one answer then."""

    def taking(seconds: float) -> Callable[[], Awaitable[Answer]]:
        async def take() -> Answer:
            await asyncio.sleep(seconds)
            return OK

        return take

    speeds = {"quick": 0.02, "usual": 0.05, "slow": 0.4}
    nodes = [ScriptedNode(taking(s), name=n, model=n, max_concurrency=8, timeout_s=60) for n, s in speeds.items()]
    with runner_of(*nodes, tries=1) as runner:
        lane, votes = runner.new_lane(), list[int]()
        new = iter([routed(*(call(i, n, n) for n in speeds)) for i in range(1500)])
        runner.submit(lane, list(islice(new, 750)))
        deadline = time.monotonic() + 60
        while len(votes) < 1500:
            assert time.monotonic() < deadline, f"{len(votes)} of 1,500"
            ended = [lane.outbox.popleft() for _ in range(len(lane.outbox))]
            votes += [sum(a.status == "ok" for a in round_.answers) for round_ in ended]
            runner.submit(lane, list(islice(new, len(ended))))
            time.sleep(0.01)
    assert min(votes) == 2
    assert nodes[2].tries < 750


def test_a_call_that_was_not_asked_since_others_serve_sooner_is_asked_when_they_do_not() -> None:
    """A round that did without one node does not wait for another that has become far slower than that one."""
    busy = ScriptedNode(takes(4), answers, name="busy", model="busy", max_concurrency=1, timeout_s=60)
    slow = ScriptedNode(hangs, name="slow", model="slow", max_concurrency=1, timeout_s=60)
    free = ScriptedNode(answers, name="free", model="free", timeout_s=60)
    with runner_of(busy, slow, free, tries=1) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [routed(call(1, "busy", "busy"))])
        time.sleep(2.5)
        runner.submit(lane, [routed(call(1, "slow", "slow"))])
        time.sleep(0.2)
        found = answered(runner, routed(*(call(0, n, n) for n in ("busy", "slow", "free"))))
    assert [(a.node, a.status) for a in found[0].answers] == [("busy", "ok"), ("slow", "failed"), ("free", "ok")]
    assert "others serve sooner" in found[0].answers[1].error
    assert (busy.tries, slow.tries, free.tries) == (2, 1, 1)


@pytest.mark.parametrize("others", [1, 2])
def test_a_node_that_asks_to_be_left_alone_again_and_again_keeps_no_round_waiting(others: int) -> None:
    """Nobody does without the others because they have a queue, and then waits for this one at a call a second."""
    # When it has nothing more to do it is idle, and the calls of both others look anew at once.

    async def quick() -> Answer:
        await asyncio.sleep(0.08)
        return OK

    class Limited(ScriptedNode):
        async def ask(self, call: Call) -> Answer:
            if self.tries % 2 == 0:
                self.tries += 1
                raise NodeError("429", "rate_limited", retry_after_s=1.0)
            return await super().ask(call)

    names = [f"good-{i}" for i in range(others)]
    good = [ScriptedNode(quick, name=name, max_concurrency=2, timeout_s=60, adaptive=False) for name in names]
    bad = Limited(answers, name="bad", max_concurrency=2, timeout_s=60)
    with runner_of(*good, bad, tries=1) as runner:
        calls = [routed(*(call(i, node=name) for name in ("bad", *names))) for i in range(200)]
        began = time.monotonic()
        found = answered(runner, *calls, limit_s=90)
        took = time.monotonic() - began
    refused = [a.error for f in found for a in f.answers if a.node != "bad" and a.status != "ok"]
    assert not refused
    assert took < 40  # 8 s of work


# -- topics take turns ---------------------------------------------------------------------------------------------


class SharedNode(ScriptedNode):
    """Notes the topics and the tasks of its calls as they begin."""

    def __init__(self, seats: int, call_s: float = 0.02, first: Callable[[], Awaitable[Any]] | None = None) -> None:
        script = [takes(call_s)] if first is None else [first, takes(call_s)]
        super().__init__(*script, max_concurrency=seats, timeout_s=60, adaptive=False)
        self.begun: list[str] = []
        self.tasks: list[str] = []

    async def ask(self, call: Call) -> Answer:
        """Note it, and take a while."""
        self.begun.append(call.topic)
        self.tasks.append(call.logical_id)
        return await super().ask(call)


def round_of(topic: str, number: int, **fields: Any) -> Routed:
    """A round with one call of a topic."""
    task, view = read_task(msgspec.json.encode({"topic": topic, "logical_id": str(number), "payload": {"prompt": "?"}}))
    message = Message(kafka_topic="t", offset=number, task_id=task.task_id, body=Work(task, view))
    named = msgspec.structs.replace(call(), topic=topic, logical_id=str(number))
    return Routed(message, 0.0, (named,), **fields)


def waits_of(topic: str, seats: int, load: Mapping[str, int]) -> list[int]:
    """For each call of a topic, how many others began while it waited; all of the rest is there before."""
    node = SharedNode(seats)
    opened: dict[str, int] = {}

    def note(task: TaskDescriptor) -> bool:
        """Asked in the loop's thread, when a round is opened: another thread would see more begin before that."""
        opened[task.logical_id] = len(node.begun)
        return False

    others = [other for other, rounds in load.items() if other != topic for _ in range(rounds)]
    rest = [round_of(other, number) for number, other in enumerate(others)]
    waits: list[int] = []
    with runner_of(node, tries=1, is_cancelled=note) as runner:
        lane = runner.new_lane()
        runner.submit(lane, rest)
        while len(node.begun) < min(2 * seats, len(rest)):
            time.sleep(0.001)
        for number in range(9000, 9000 + load[topic]):
            answered(runner, round_of(topic, number))
            mine = [at for at, begun in enumerate(node.begun) if begun == topic][-1]
            waits.append(mine - opened[str(number)])
        assert len(lane.outbox) <= len(rest) / 2, "there was nothing to wait for"
    return waits


def test_a_rare_topic_waits_no_longer_for_a_seat_beside_one_with_nearly_all_the_load() -> None:
    """95 of 100 calls are of one topic. Counted in calls that begin: those whose seats come free at the same moment
    may all be ahead, and then one of each other topic; behind the queue it would be hundreds.
    """
    seats, load = 4, {"hot": 760, "other": 32, "rare": 8}
    alone = waits_of("rare", seats, {"rare": load["rare"]})
    beside = waits_of("rare", seats, load)
    assert max(alone) == 0
    assert len(beside) == len(alone)
    assert max(beside) <= seats + len(load) - 1
    assert sum(beside) / len(beside) <= len(load)


def test_a_hot_topic_alone_has_all_seats() -> None:
    """Turns cost nothing where nobody else waits."""
    node = SharedNode(4)
    with runner_of(node, tries=1) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [round_of("hot", i) for i in range(40)])
        while len(node.begun) < 8:
            time.sleep(0.001)
        assert runner._watch.gates["n"].active == 4


USUAL = 20
"""So many calls tell how long one takes."""


def test_a_call_goes_elsewhere_for_what_is_ahead_of_it_and_not_for_what_waits_behind() -> None:
    """Nobody does without the better model because another topic is hot."""
    node, spare = SharedNode(1, 0.05), ScriptedNode(answers, name="spare")
    with runner_of(node, spare, tries=1) as runner:
        answered(runner, *[round_of("hot", i) for i in range(USUAL)])  # one alone may take far longer than they do
        runner.submit(runner.new_lane(), [round_of("hot", i) for i in range(USUAL, 100)])
        until(lambda: len(node.begun) > USUAL)
        reserves = (call(node="spare"),)
        rare, hot = answered(runner, round_of("rare", 100, reserves=reserves), round_of("hot", 101, reserves=reserves))
    found = {one.routed.calls[0].topic: [a.node for a in one.answers if a.status == "ok"] for one in (rare, hot)}
    assert found == {"rare": ["n"], "hot": ["spare"]}


def test_calls_that_were_given_up_take_no_turns() -> None:
    """Those of their topic that are left don't wait for them."""
    go_on = threading.Event()
    node = SharedNode(1, first=waits_for(go_on))
    cancelled = False
    with runner_of(node, tries=1, is_cancelled=lambda task: cancelled and int(task.logical_id) < 100) as runner:
        lane = runner.new_lane()
        given_up, others = [round_of("a", i) for i in range(1, 100)], [round_of("b", i) for i in range(900, 930)]
        left = round_of("a", 100)
        runner.submit(lane, [others[0], *given_up, left, *others[1:]])
        until(lambda: node.begun and runner.gates["n"].state(0.0).queue_depth == len(given_up) + len(others))
        cancelled = True
        runner.cancel()
        until(lambda: len(lane.outbox) == len(given_up))
        go_on.set()
        until(lambda: len(lane.outbox) == len(given_up) + len(others) + 1)
    assert node.tasks.index("100") < 6, "it waits for those that were given up"


# -- who may ask, and who is asked ---------------------------------------------------------------------------------


def test_a_cell_that_is_not_sure_of_its_lanes_asks_nothing_until_it_is() -> None:
    """Another cell may have them, and pay for the same call."""
    sure: list[bool] = []
    node = ScriptedNode(answers)
    with runner_of(node, tries=1, may_ask=lambda: bool(sure)) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [routed(call())])
        time.sleep(0.2)
        assert (node.tries, list(lane.outbox)) == (0, [])
        sure.append(True)
        until(lambda: lane.outbox)
        assert lane.outbox[0].answers[0].status == "ok"


def test_calls_that_wait_for_a_seat_do_not_begin_once_the_process_may_not_ask() -> None:
    """What is being asked is answered, and then it can be told how many rounds wait for nothing more."""
    may = [True]
    go_on = threading.Event()
    node = ScriptedNode(waits_for(go_on), max_concurrency=2, timeout_s=60)
    with runner_of(node, tries=1, may_ask=lambda: bool(may)) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [routed(call(i)) for i in range(10)])
        until(lambda: node.tries == 2)
        may.clear()
        assert runner.stuck(0) == 0
        go_on.set()
        until(lambda: runner.stuck(0))
        assert (node.tries, len(lane.outbox), runner.stuck(0), runner.stuck(1)) == (2, 2, 8, 0)
        may.append(True)
        until(lambda: len(lane.outbox) == 10)
        assert (node.tries, runner.stuck(0)) == (10, 0)


def test_a_model_that_its_node_has_not_got_is_no_call() -> None:
    """The file may have changed since the call was chosen."""
    with runner_of(ScriptedNode(answers), tries=1) as runner:
        other = msgspec.structs.replace(call(), model="other")
        (found,) = answered(runner, routed(other))
    assert (found.answers[0].status, found.answers[0].tries) == ("failed", 0)
    assert "no longer in the nodes file" in found.answers[0].error


def test_a_node_that_fails_over_being_cancelled_is_not_tried_again() -> None:
    """The round is over, whatever the node says."""
    cancelled = False

    async def fails_then() -> Answer:
        try:
            return await hangs()
        except asyncio.CancelledError:
            raise NodeError("interrupted") from None

    node = ScriptedNode(fails_then, timeout_s=60)
    with runner_of(node, tries=5, is_cancelled=lambda _task: cancelled) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [routed(call())])
        until(lambda: node.tries)
        cancelled = True
        runner.cancel()
        until(lambda: lane.outbox and not runner._tries._under_way)
        assert (node.tries, lane.outbox[0].cancelled) == (1, True)
