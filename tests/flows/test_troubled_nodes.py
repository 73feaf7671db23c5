"""Nodes in trouble, as the calls meet them: each round ends, and each node that is well again is asked again."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from connectors.ledger import CallLedger
from connectors.nodes import Node, NodeError
from flows import gate, node_watch
from flows.gate import NodeGate, UnavailableError, is_far_slower
from flows.node_watch import NodeWatch
from flows.settings import read_settings
from schemas.errors import RefusedError
from schemas.node import Answer, NodeCapabilities, NodeReport
from tests.aureon_command import until
from tests.flows.call_parts import (
    FixedNodes,
    ScriptedNode,
    answered,
    answers,
    call,
    fails,
    hangs,
    routed,
    runner_of,
    takes,
)


class SlowLedger(CallLedger):
    """One whose commits take longer than it takes to look at all calls."""

    def _write(self, *entries: Any) -> int:
        time.sleep(0.12)
        return super()._write(*entries)


class Nodes:
    """Nodes that a file gives, as it is read again."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes: Mapping[str, Node] = {}
        self.replace(*nodes)
        self._gone: list[Node] = []

    def replace(self, *nodes: Node) -> None:
        """From now on it is these."""
        self._gone = list(self.nodes.values())
        self.nodes = {node.capabilities.node: node for node in nodes}

    def refresh(self) -> Sequence[Node]:
        """Those that are no more, once."""
        gone, self._gone = self._gone, []
        return gone


def rate_limited(retry_after_s: float) -> NodeError:
    """HTTP 429."""
    return NodeError("429", "rate_limited", retry_after_s)


def raises(error: Exception) -> Callable[[], Any]:
    """A part of a script."""

    async def part() -> Answer:
        raise error

    return part


def test_a_reserve_that_hangs_is_timed_out_though_nothing_was_under_way_before_it(tmp_path: Path) -> None:
    """While a failure is written down no call may be under way; who looks at the deadlines comes back."""
    bad, spare = ScriptedNode(fails), ScriptedNode(hangs, name="spare")
    with runner_of(bad, spare, tries=1, ledger=lambda: SlowLedger(tmp_path / "calls.sqlite")) as runner:
        (found,) = answered(runner, routed(call(), reserves=(call(node="spare"),)))
    assert "no answer within 0.1 s" in found.answers[1].error


def test_calls_that_wait_for_a_node_go_to_the_one_that_comes_in_its_place() -> None:
    """And those for one that is taken away end, and say so."""
    bad, gone = ScriptedNode(fails, timeout_s=30), ScriptedNode(fails, name="gone", timeout_s=30)
    nodes = Nodes(bad, gone)
    with runner_of(nodes=lambda: nodes, tries=1) as runner:
        answered(runner, *[routed(call(i)) for i in range(5)], *[routed(call(i, node="gone")) for i in range(5)])
        lane = runner.new_lane()
        runner.submit(lane, [*[routed(call(i)) for i in range(10, 16)], routed(call(10, node="gone"))])
        time.sleep(0.3)
        mended = ScriptedNode(answers)
        nodes.replace(mended)
        until(lambda: len(lane.outbox) == 7)  # else a call waits for a node that is no more
    found = sorted((f.answers[0] for f in lane.outbox), key=lambda a: a.node == "gone")
    # the old node has had a probe or two, or some more where it took long until the nodes were looked at
    assert 2 <= sum(a.status == "ok" for a in found) == mended.tries
    assert "no longer in the nodes file" in found[-1].error or "503" in found[-1].error


def test_a_node_that_takes_longer_than_a_probe_may_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was down before it ever answered, so nobody knows what is usual for it."""
    monkeypatch.setattr(gate, "PROBE_LIMIT_S", 0.5)
    node = ScriptedNode(*[fails] * 5, takes(1.2), timeout_s=60)
    with runner_of(node, tries=1) as runner:
        answered(runner, *[routed(call(i)) for i in range(5)])
        lane = runner.new_lane()
        runner.submit(lane, [routed(call(i)) for i in range(10, 16)])
        deadline = time.monotonic() + 60
        while len(lane.outbox) < 6:
            assert time.monotonic() < deadline, "it never comes back"
            time.sleep(0.01)
        served = [f.answers[0].status for f in lane.outbox]
    assert served.count("ok") >= 4


class Listed(ScriptedNode):
    """One that fails when it is asked which models it has."""

    said = NodeError("500", "server_error")

    async def check(self) -> NodeReport:
        """It does not know."""
        raise self.said


@pytest.mark.parametrize("failure", ["server_error", "garbage", "rate_limited", "denied"])
def test_whatever_a_node_says_when_asked_how_it_is_it_is_there(failure: Any) -> None:
    """A server that has no list of models is no silent one."""
    node = Listed(answers)
    node.said = NodeError("?", failure)
    with runner_of(node, tries=1, silence_s=2.5) as runner:
        runner.start()
        time.sleep(5)
        (found,) = answered(runner, routed(call()))
        assert found.answers[0].status == "ok"


def test_a_silent_node_is_tried_now_and_then() -> None:
    """Its models may be there although it never says which they are."""
    node = Listed(answers, timeout_s=20)
    node.said = NodeError("?", "timeout")
    with runner_of(node, tries=1, silence_s=1.0) as runner:
        runner.start()
        deadline = time.monotonic() + 60
        while not (runner.states.get("n") and runner.states["n"].open):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (found,) = answered(runner, routed(call()))
        assert found.answers[0].status == "ok"


def test_a_process_that_stood_still_calls_no_node_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls under way stay where they are: their answers may be on their way."""
    monkeypatch.setattr(node_watch, "BEAT_EVERY_S", 0.2)
    node = Listed(takes(4.0), timeout_s=60)
    with runner_of(node, tries=1, silence_s=2.0) as runner:
        lane = runner.new_lane()
        runner.submit(lane, [routed(call())])
        until(lambda: node.tries)
        assert runner._loop is not None
        runner._loop.call_soon_threadsafe(time.sleep, 3.0)
        until(lambda: lane.outbox)
        assert [a.status for a in lane.outbox[0].answers] == ["ok"]


@pytest.mark.parametrize(
    "fields",
    [
        {"text": 42},
        {"text": "\ud800"},
        {"text": "x", "meta": {"a": object()}},
        {"text": "x", "meta": {"a": 1 << 200}},
        {"text": "x", "tokens_in": "many"},
        {"text": "x", "tokens_out": -1},
        {"text": "x", "cost": float("nan")},
        {"text": "x", "cost": -1.0},
        {"text": "x", "score": "high"},
        {"text": "x", "status": "great"},
    ],
)
def test_an_answer_that_cannot_be_written_down_is_none(fields: dict[str, Any], tmp_path: Path) -> None:
    """Neither this life nor the next one ends for it."""

    async def bad() -> Answer:
        return Answer(node="n", model="m", **fields)

    node = ScriptedNode(bad, answers)
    for status in ("failed", "ok"):
        with runner_of(node, tries=1, folder=tmp_path) as runner:
            (found,) = answered(runner, routed(call()))
            assert found.answers[0].status == status
            assert runner._ledger.failed is None
        if status == "failed":
            assert "the node returned an Answer" in found.answers[0].error


def test_meta_that_json_writes_otherwise_is_an_answer() -> None:
    """A tuple becomes a list."""

    async def tuples() -> Answer:
        return Answer(node="n", model="m", text="x", meta={"a": (1, 2)})

    with runner_of(ScriptedNode(tuples), tries=1) as runner:
        (found,) = answered(runner, routed(call()))
    assert found.answers[0].meta == {"a": [1, 2]}


def test_a_round_waits_for_a_long_retry_after_only_where_nobody_else_can_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reserve is asked; where there is none, the call waits, and nothing becomes a dead letter meanwhile."""
    monkeypatch.setattr(gate, "LONGEST_QUIET_S", 4.0)
    quiet = ScriptedNode(raises(rate_limited(3600.0)), answers, timeout_s=1)
    spare = ScriptedNode(answers, name="spare")
    with runner_of(quiet, spare, tries=3) as runner:
        (found,) = answered(runner, routed(call(), reserves=(call(node="spare"),)))
        assert [a.status for a in found.answers] == ["failed", "ok"]
        began = time.monotonic()
        assert runner._watch.gates["n"].state(began).quiet_s > 2
        (alone,) = answered(runner, routed(call(1)))
        assert time.monotonic() - began > 1
        assert (alone.answers[0].status, quiet.tries) == ("ok", 2)


def gate_of(seats: int, **fields: Any) -> NodeGate:
    """A gate."""
    return NodeGate(NodeCapabilities(node="n", models=("m",), max_concurrency=seats, **fields), "", 10.0)


def test_a_node_that_asked_to_be_left_alone_is_no_free_one() -> None:
    """Who compares nodes has to know."""
    quiet, now = gate_of(4), time.monotonic()
    assert quiet.wait_s(now) == 0.0
    quiet.failed("m", now, rate_limited(8.0))
    assert quiet.wait_s(now) == pytest.approx(8.0)
    assert quiet.wait_s(now + 9.0) == 0.0


def test_nobody_counts_on_a_node_that_asked_to_be_left_alone_a_moment_ago() -> None:
    """It is free, and asks for the same again after the next call: no round is to be left to it."""
    node = ScriptedNode(answers)
    watch = NodeWatch(FixedNodes([node]), "", 10.0, lambda _states: None, lambda _gate: None)
    watch._take_nodes()
    one, now = watch.gates["n"], time.monotonic()
    assert watch.wait_s(call()) == 0.0
    one.failed("m", now - 1.0, rate_limited(0.5))
    assert one.wait_s(now) == 0.0
    assert watch.wait_s(call()) == math.inf
    assert one.is_rate_limited(now + 4.0)
    assert not one.is_rate_limited(now + 5.0)


def test_the_first_burst_after_a_long_time_loses_no_vote() -> None:
    """How long a turn takes does not count while nobody was there."""
    one = gate_of(2)
    one._turned = time.monotonic() - 3600.0
    for _ in range(2):
        one.look(time.monotonic())
    assert one.enter_at_once("m")
    assert one.enter_at_once("m")
    assert not is_far_slower(one.wait_s(time.monotonic()), 0.0)


def test_a_moment_in_which_the_process_stood_still_is_no_slowness_of_a_node() -> None:
    """When it goes on, the answers that came in the meantime are read one after the other: the last seem late."""

    async def scene() -> tuple[float, float, float]:
        late = gate_of(2)
        for _ in range(2):
            late.enter_at_once("m")
        late.answered("m", time.monotonic(), 0.02, 0)
        waiting = [asyncio.create_task(late.enter("t", "m", lambda _fewest: 0.0)) for _ in range(100)]
        await asyncio.sleep(0)
        late._turned -= 0.5
        stood = late.wait_s(time.monotonic())
        for _ in range(2):
            late.look(time.monotonic())
        slow = late.wait_s(time.monotonic())
        late.leave()
        turned = late.wait_s(time.monotonic())
        for one in waiting:
            one.cancel()
        return stood, slow, turned

    stood, slow, turned = asyncio.run(scene())
    assert stood == pytest.approx(1.01)
    assert slow > 50.0
    assert turned == pytest.approx(1.0, abs=0.05)


def test_requests_at_fault_leave_the_node_to_the_others() -> None:
    """A task that is too long for a model says nothing against it; a wrong key does."""
    for failure, is_open in (("rejected", True), ("denied", False)):
        one = gate_of(8)
        for _ in range(20):
            assert one.enter_at_once("m")
            one.failed("m", 0.0, NodeError("4xx", failure))  # type: ignore[arg-type]
            one.leave()
            if not one.is_open("m"):
                break
        assert one.is_open("m") is is_open


class Broken(ScriptedNode):
    """One that cannot be checked or closed as it should."""

    async def check(self) -> NodeReport:
        """As a pool does that drops what waits in it."""
        raise asyncio.CancelledError

    async def close(self) -> None:
        """It is not."""
        raise OSError("broken")


def test_a_node_that_cannot_be_checked_or_closed_harms_no_other(tmp_path: Path) -> None:
    """The beat goes on, and what was answered is kept."""
    beats: list[object] = []
    broken = Broken(answers, name="broken")
    with runner_of(broken, ScriptedNode(answers), tries=1, folder=tmp_path, publish=beats.append) as runner:
        runner.start()
        until(lambda: len(beats) >= 3)
        answered(runner, routed(call()))
    ledger = CallLedger(tmp_path / "calls.sqlite")
    assert ledger.has_past


def test_too_short_a_silence_is_refused() -> None:
    """Nodes are asked every two seconds how they are."""
    with pytest.raises(RefusedError, match="AUREON_NODE_SILENCE_S"):
        read_settings({}, {"AUREON_NODE_SILENCE_S": "1"})


# -- calls that are given up while they wait -----------------------------------------------------------------------


def test_calls_that_were_given_up_have_no_part_in_what_becomes_of_a_queue() -> None:
    """Whatever happens in the moment before they notice, seats and turns are those of the others."""

    async def scene() -> None:
        one = gate_of(1, adaptive=False)
        assert one.enter_at_once("m")
        enter = partial(one.enter, "t", "m", lambda _fewest: None)
        for happens in (one.look_anew, one.leave, one._let_in):
            one.limit.value = 1
            given_up, stays = (asyncio.create_task(enter()) for _ in range(2))
            await asyncio.sleep(0)
            given_up.cancel()
            one.limit.value = 2 if happens == one._let_in else 1
            happens()
            await asyncio.gather(given_up, return_exceptions=True)
            await asyncio.sleep(0)
            if happens == one.look_anew:
                assert (stays.done(), one._returning, len(one._waiting)) == (False, 0, 1)
                one.leave()
            assert await stays is False
        assert one.active == 2
        late = asyncio.create_task(enter())
        await asyncio.sleep(0)
        one.look_anew()
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        assert (one._returning, len(one._waiting)) == (0, 0)

    asyncio.run(scene())


def test_calls_that_wait_for_a_model_and_are_given_up_let_the_next_one_find_out() -> None:
    """One that has waited for as long as a call may take ends, where nobody else can serve."""

    async def scene() -> None:
        one = gate_of(8, timeout_s=5.0)
        now = time.monotonic()
        while one.is_open("m"):
            one.failed("m", now, NodeError("503"))
        enter = partial(one.enter, "t", "m", lambda _fewest: None)
        first, second, third = (asyncio.create_task(enter()) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        one.look(now)
        assert len(one._blocked) == 2
        second.cancel()
        one._unblock()
        await asyncio.sleep(0)
        assert not third.done()
        one.look(now + 0.1)
        one._blocked[0].since -= 6.0
        one.look(now)
        with pytest.raises(NodeError, match="m failed too often; it is asked again soon; nobody else can serve"):
            await third
        await asyncio.gather(first, second, return_exceptions=True)

    asyncio.run(scene())


@pytest.mark.parametrize("failure, is_open", [("rate_limited", False), ("rejected", True)])
def test_a_probe_may_end_without_a_word_on_the_model(failure: Any, *, is_open: bool) -> None:
    """A node that asks to be left alone has not said; one that rejects a request is there. Another may go then."""
    one = gate_of(8)
    while one.is_open("m"):
        one.failed("m", 0.0, NodeError("503"))
    probe = one.breakers["m"]
    for _ in range(2):
        assert probe.may_probe(1000.0)
        probe.probing = True
        one.failed("m", 1000.0, NodeError("4xx", failure), probe=True)
        assert one.is_open("m") is is_open
        if is_open:
            return
    probe.probing = True
    one.abandoned("m")
    assert probe.may_probe(1000.0)


def test_a_node_that_is_silent_says_so_to_whom_others_can_serve() -> None:
    """At once."""
    one = gate_of(8)
    one._heard -= 11.0
    assert one.check_silence()
    with pytest.raises(UnavailableError, match="the node was not heard of for 10 s"):
        asyncio.run(one.enter("t", "m", lambda _fewest: 0.0))


class Odd(ScriptedNode):
    """One whose check has a fault, and which notes that it was closed."""

    closed = False

    async def check(self) -> NodeReport:
        """It fails in a way of its own."""
        raise KeyError("a fault of its own")

    async def close(self) -> None:
        """Note it."""
        self.closed = True


def test_nodes_that_cannot_be_read_or_checked_are_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And one that is no more is closed when its calls have had their time."""
    monkeypatch.setattr(node_watch, "BEAT_EVERY_S", 0.02)
    old = Odd(answers)
    fails_to_read: list[bool] = []

    class Unreadable(Nodes):
        def refresh(self) -> Sequence[Node]:
            if len(fails_to_read) == 1:
                fails_to_read.append(True)
                raise OSError("not now")
            fails_to_read.append(False)
            return super().refresh()

    nodes = Unreadable(old)
    with runner_of(nodes=lambda: nodes, tries=1) as runner:
        runner.start()
        until(lambda: len(fails_to_read) > 3)
        nodes.replace(ScriptedNode(answers))
        until(lambda: old.closed)
        (found,) = answered(runner, routed(call()))
        assert found.answers[0].status == "ok"
    told = {record.getMessage() for record in caplog.records}
    assert {"how the nodes are", "n: check"} <= told
