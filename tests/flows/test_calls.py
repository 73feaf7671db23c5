"""Calls on their loop: whatever a node does, its round is answered; nothing is asked twice, nor beyond its budget."""

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.ledger import CallLedger
from connectors.nodes import Node, NodeError
from flows.budget import Budgets
from flows.calls import Answered, CallRunner, RetryPolicy, RunnerParts
from flows.lane import Message
from flows.steps.intake import Work
from flows.steps.route import Routed
from schemas.errors import TryAgainError
from schemas.node import Answer, Call, NodeCapabilities, NodeHealth, NodeReport
from schemas.task import Allowance, TaskDescriptor, read_task

TIMEOUT_S = 0.1
TASK, VIEW = read_task(b'{"topic": "math", "logical_id": "a", "payload": {"prompt": "?"}}')
MESSAGE = Message(kafka_topic="t", offset=0, task_id="a:r0", body=Work(TASK, VIEW))
OK = Answer(node="n", model="m", text="42")


class ScriptedNode:
    """Does at each try what the next part of its script says; the last part again and again."""

    def __init__(
        self,
        *script: Callable[[], Awaitable[Any]],
        max_concurrency: int = 8,
        name: str = "n",
        timeout_s: float = TIMEOUT_S,
        **capabilities: Any,
    ) -> None:
        self.capabilities = NodeCapabilities(
            node=name, models=("m",), timeout_s=timeout_s, max_concurrency=max_concurrency, **capabilities
        )
        self._script = list(script)
        self.tries = 0

    async def ask(self, call: Call) -> Answer:
        """Follow the script."""
        del call
        part = self._script[min(self.tries, len(self._script) - 1)]
        self.tries += 1
        return await part()  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Nothing to let go of."""


async def answers() -> Answer:
    """As it should."""
    return OK


async def hangs() -> Answer:
    """For ever."""
    await asyncio.sleep(3600)
    return OK


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


async def fails() -> Answer:
    """With the error that nodes have."""
    raise NodeError("503")


async def returns_text() -> Any:
    """Which is no answer."""
    return "42"


class FixedNodes:
    """Nodes that stay the same."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes: Mapping[str, Node] = {node.capabilities.node: node for node in nodes}

    def refresh(self) -> Sequence[Node]:
        """Nothing changes."""
        return ()


def call(sample: int = 0, node: str = "n") -> Call:
    """One question."""
    return Call(
        topic="math",
        logical_id="a",
        generation=0,
        round_index=0,
        attempt=0,
        node=node,
        model="m",
        sample=sample,
        prompt="?",
        answer_kind="number",
    )


@contextmanager
def runner_of(*nodes: Node, tries: int, folder: Path | None = None, **parts: Any) -> Iterator[CallRunner]:
    """Run the calls of some nodes."""
    with tempfile.TemporaryDirectory() as other:
        path = (folder or Path(other)) / "calls.sqlite"
        given: dict[str, Any] = {
            "nodes": lambda: FixedNodes(nodes),
            "retry": RetryPolicy(tries, 0.001),
            "ledger": lambda: CallLedger(path),
            "budgets": Budgets,
        }
        runner = CallRunner(RunnerParts(**given | parts))
        yield runner
        runner.close()


def routed(*calls: Call, **fields: Any) -> Routed:
    """A round of some calls."""
    return Routed(MESSAGE, 0.0, calls, **fields)


def answered(runner: CallRunner, *rounds: Routed, limit_s: float = 10) -> list[Answered]:
    """Ask some rounds, and wait until all are answered."""
    lane = runner.new_lane()
    runner.submit(lane, rounds)
    deadline = time.monotonic() + limit_s
    while len(lane.outbox) < len(rounds):
        assert time.monotonic() < deadline, "a round was never answered"
        time.sleep(0.005)
    return list(lane.outbox)


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
        await asyncio.sleep(0.01)
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

    with runner_of(Mixed(max_concurrency=100), tries=1) as runner:
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


def test_the_end_abandons_what_is_open() -> None:
    """Without waiting for its time-out, and without another try."""
    node = ScriptedNode(hangs, timeout_s=60)
    with runner_of(node, tries=3) as runner:
        runner.submit(runner.new_lane(), [routed(call())])
        while not node.tries:
            time.sleep(0.005)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert node.tries == 1


# -- reserves, breakers, silence -----------------------------------------------------------------------------------


class ListedNode(ScriptedNode):
    """One that can be asked how it is; `hears` says whether it then answers."""

    hears = True

    async def check(self) -> NodeReport:
        """Say so, or nothing."""
        if not self.hears:
            raise NodeError("no connection", "refused")
        return NodeReport(models=("m",), loaded=("m",))


def test_a_call_that_fails_for_good_is_replaced_by_the_next_reserve() -> None:
    """Its failure stays as evidence; the round ends with who could serve."""
    bad, good = ScriptedNode(fails), ScriptedNode(answers, name="spare")
    with runner_of(bad, good, tries=2) as runner:
        (found,) = answered(runner, routed(call(), reserves=(call(node="spare"), call(1, node="spare"))))
    assert [(a.node, a.status) for a in found.answers] == [("n", "failed"), ("spare", "ok")]
    assert (bad.tries, good.tries) == (2, 1)
    assert found.spent.calls == 3


def test_a_request_that_is_at_fault_is_not_tried_again() -> None:
    """A node that rejects it will do so the next time too."""

    async def rejects() -> Answer:
        raise NodeError("400: no such model", "rejected")

    node = ScriptedNode(rejects)
    with runner_of(node, tries=3) as runner:
        (answer,) = ask(runner)
    assert (answer.status, node.tries) == ("failed", 1)


def test_a_node_that_fails_again_and_again_costs_nobody_anything_while_others_can_serve() -> None:
    """After a row of failures it is not asked; a probe finds out when it is back."""
    broken = True

    async def sometimes() -> Answer:
        if broken:
            raise NodeError("500", "server_error")
        return OK

    bad, good = ScriptedNode(sometimes, name="bad"), ScriptedNode(answers)
    with runner_of(bad, good, tries=1) as runner:
        rounds = [routed(call(i), call(i, node="bad")) for i in range(5)]
        answered(runner, *rounds)
        asked = bad.tries
        began = time.monotonic()
        later = answered(runner, *[routed(call(i), call(i, node="bad")) for i in range(50)])
        assert time.monotonic() - began < 0.9
        assert bad.tries == asked
        assert {a.status for found in later for a in found.answers} == {"ok", "failed"}
        assert all("asked again soon" in found.answers[1].error for found in later)
        assert all(found.answers[1].tries == 0 for found in later)
        assert runner.states["bad"].health is NodeHealth.UNHEALTHY
        assert runner.states["bad"].open == ("m",)
        broken = False
        time.sleep(1.1)
        answered(runner, routed(call(90), call(90, node="bad")))
        (mended,) = answered(runner, routed(call(91), call(91, node="bad")))
        assert [a.status for a in mended.answers] == ["ok", "ok"]


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
        deadline = time.monotonic() + 10
        while len(lane.outbox) < 20:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert {f.answers[0].status for f in lane.outbox} == {"ok"}


def test_retry_after_is_honoured_and_the_node_left_alone_meanwhile() -> None:
    """By the call that was told, and by others that somebody else can serve."""

    async def pushes_back() -> Answer:
        raise NodeError("429", "rate_limited", retry_after_s=1.5)

    node = ScriptedNode(pushes_back, answers, name="n", timeout_s=5)
    spare = ScriptedNode(answers, name="spare")
    with runner_of(node, spare, tries=2) as runner:
        lane = runner.new_lane()
        began = time.monotonic()
        runner.submit(lane, [routed(call())])
        time.sleep(0.1)
        (other,) = answered(runner, routed(call(1), call(1, node="spare")))
        assert time.monotonic() - began < 0.4
        assert "left alone" in other.answers[0].error
        while not lane.outbox:
            time.sleep(0.005)
        assert time.monotonic() - began >= 1.5
        assert lane.outbox[0].answers[0].tries == 2


def test_a_node_that_is_not_heard_of_gives_its_calls_to_others() -> None:
    """Long before they would have timed out; it is taken back once it is heard of again."""
    hung, good = ListedNode(hangs, answers, name="hung", timeout_s=60), ListedNode(answers)
    hung.hears = False
    with runner_of(hung, good, tries=1, silence_s=1.0) as runner:
        began = time.monotonic()
        (found,) = answered(runner, routed(call(node="hung"), reserves=(call(),)))
        assert time.monotonic() - began < 6
        assert "not heard of" in found.answers[0].error
        assert found.answers[1].status == "ok"
        assert runner.states["hung"].health is NodeHealth.UNHEALTHY
        hung.hears = True
        time.sleep(3.5)
        (mended,) = answered(runner, routed(call(1, node="hung")))
        assert mended.answers[0].status == "ok"
        assert runner.states["hung"].last_seen > 0


def test_a_round_that_escalates_asks_its_reserves_one_by_one_until_it_has_enough() -> None:
    """And no more than that."""
    nodes = [ScriptedNode(answers, name=f"n{i}") for i in range(4)]
    calls = tuple(call(node=f"n{i}") for i in range(4))
    with runner_of(*nodes, tries=1, enough=lambda _routed, given, _checks: len(given) >= 3) as runner:
        (found,) = answered(runner, routed(calls[0], reserves=calls[1:], escalates=True))
        assert len(found.answers) == 3
    assert [n.tries for n in nodes] == [1, 1, 1, 0]


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
    """Notes the topics of its calls as they begin."""

    def __init__(self, seats: int, call_s: float = 0.02) -> None:
        super().__init__(takes(call_s), max_concurrency=seats, timeout_s=60, adaptive=False)
        self.begun: list[str] = []

    async def ask(self, call: Call) -> Answer:
        """Note it, and take a while."""
        self.begun.append(call.topic)
        return await super().ask(call)


def takes(seconds: float) -> Callable[[], Awaitable[Answer]]:
    """A part of a script."""

    async def part() -> Answer:
        await asyncio.sleep(seconds)
        return OK

    return part


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


def test_a_call_goes_elsewhere_for_what_is_ahead_of_it_and_not_for_what_waits_behind() -> None:
    """Nobody does without the better model because another topic is hot."""
    node, spare = SharedNode(1, 0.05), ScriptedNode(answers, name="spare")
    with runner_of(node, spare, tries=1) as runner:
        answered(runner, round_of("hot", 0))
        runner.submit(runner.new_lane(), [round_of("hot", i) for i in range(1, 100)])
        while len(node.begun) < 2:
            time.sleep(0.001)
        reserves = (call(node="spare"),)
        rare, hot = answered(runner, round_of("rare", 100, reserves=reserves), round_of("hot", 101, reserves=reserves))
    found = {one.routed.calls[0].topic: [a.node for a in one.answers if a.status == "ok"] for one in (rare, hot)}
    assert found == {"rare": ["n"], "hot": ["spare"]}


def test_calls_that_were_given_up_take_no_turns() -> None:
    """Those of their topic that are left don't wait for them."""
    node = SharedNode(1, 0.1)
    cancelled = False
    with runner_of(node, tries=1, is_cancelled=lambda task: cancelled and int(task.logical_id) < 100) as runner:
        lane = runner.new_lane()
        given_up, others = [round_of("a", i) for i in range(1, 100)], [round_of("b", i) for i in range(900, 930)]
        left = round_of("a", 100)
        runner.submit(lane, [others[0], *given_up, left, *others[1:]])
        while not node.begun or runner._watch.gates["n"].state(time.monotonic()).queue_depth < 120:
            time.sleep(0.001)
        cancelled = True
        before = len(node.begun)
        runner.cancel()
        while left not in [one.routed for one in list(lane.outbox)]:
            assert len(node.begun) < before + 6, "it waits for those that were given up"
            time.sleep(0.005)


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
        ask(runner)
        with sqlite3.connect(tmp_path / "calls.sqlite") as db:
            db.execute("DROP TABLE commits")
        db.close()
        lane = runner.new_lane()
        runner.submit(lane, [routed(call(5))])
        deadline = time.monotonic() + 5
        while runner._ledger.failed is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(TryAgainError, match="no answer can be kept"):
            runner.check()
        assert not lane.outbox


# -- budgets and cancels -------------------------------------------------------------------------------------------


def test_a_round_asks_no_more_than_it_may(tmp_path: Path) -> None:
    """Further tries count, and so does what an earlier life asked."""
    node = ScriptedNode(fails)
    with runner_of(node, tries=5, folder=tmp_path) as runner:
        (found,) = answered(runner, routed(call(), allowance=Allowance(calls=3)))
    assert (node.tries, found.spent.calls, found.exceeded) == (3, 3, "the budget of 3 calls is spent")
    with runner_of(node, tries=5, folder=tmp_path) as runner:
        (again,) = answered(runner, routed(call(), allowance=Allowance(calls=3)))
    assert (node.tries, again.spent.calls) == (3, 3)
    assert again.exceeded


def test_money_is_charged_as_expected_before_and_as_it_was_after(tmp_path: Path) -> None:
    """What was not used is there for the next call."""

    async def cheap() -> Answer:
        return Answer(node="n", model="m", text="42", tokens_in=10, tokens_out=10, cost=0.01)

    node = ScriptedNode(cheap, max_concurrency=1, price_out=1000.0, max_tokens=100)
    with runner_of(node, tries=1, folder=tmp_path) as runner:
        (found,) = answered(runner, routed(*(call(i) for i in range(5)), allowance=Allowance(cost=0.12)))
    assert node.tries == 3
    assert found.spent.cost == pytest.approx(0.03)
    assert found.spent.tokens == 60
    assert found.exceeded == "the budget of 0.12 of money is spent"


def test_a_day_s_budget_holds_over_lives(tmp_path: Path) -> None:
    """Each lane has its share; the reason says so."""
    budgets = Budgets(day=Allowance(calls=5))
    node = ScriptedNode(answers)
    found: list[Answered] = []
    for life in range(3):
        with runner_of(node, tries=1, folder=tmp_path, budgets=lambda: budgets) as runner:
            found += answered(runner, *[routed(call(10 * life + i)) for i in range(2)])
    assert node.tries == 5
    assert sorted(f.exceeded for f in found) == [*[""] * 5, "this lane's share of today's budget, 5 calls, is spent"]


def test_a_cancelled_task_s_calls_are_abandoned_and_none_begins(tmp_path: Path) -> None:
    """Those of other tasks go on."""
    cancelled = False
    node, quick = ScriptedNode(hangs, timeout_s=60, max_concurrency=2), ScriptedNode(answers, name="quick")
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
        deadline = time.monotonic() + 2
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
