"""The embedded nodes and their processes, faults included."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest

from connectors.nodes import NodeError
from connectors.nodes.embedded import PIPELINE, TOPICS, SolverNode, SolverPool, embedded_nodes
from connectors.nodes.solvers import Solution
from connectors.nodes.solvers.wire import Reply, Request, frame
from schemas.node import Answer, Call
from tests.aureon_command import environment, is_alive
from tests.connectors.asked import a_call, run

QUESTION = "Solve for k: 840*k = 10920"
ROOT = str(Path(__file__).resolve().parents[3])
WORKER = (sys.executable, "-P", "-m", "connectors.nodes.solvers.worker")

FAULTY = """
import os, signal, time
from connectors.nodes.solvers import Solution, worker
def loops(prompt, round_index):
    while True:
        pass
def deaf(prompt, round_index):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    loops(prompt, round_index)
def dies(prompt, round_index):
    os._exit(3)
def breaks(prompt, round_index):
    raise ArithmeticError("two and two")
def prints(prompt, round_index):
    print("hello")
    return Solution("printed")
def marks(prompt, round_index):
    open(prompt, "x").close()
worker.SOLVERS.update(loops=loops, deaf=deaf, dies=dies, breaks=breaks, prints=prints, marks=marks)
worker.main()
"""
"""The real worker, with solvers that fail in every way."""
SLOWLY = """
import time
from connectors.nodes.solvers import worker
class Pieces:
    def __init__(self, file):
        self.file = file
    def write(self, data):
        for piece in (data[:2], data[2:7], data[7:]):
            self.file.write(piece)
            self.file.flush()
            time.sleep(0.02)
    def flush(self):
        pass
serve = worker.serve
worker.serve = lambda requests, replies: serve(requests, Pieces(replies))
worker.main()
"""
"""The real worker, whose replies come bit by bit."""


def call(prompt: str = QUESTION, round_index: int = 0) -> Call:
    """Ask something."""
    return a_call(prompt=prompt, round_index=round_index)


def faulty(workers: int = 1) -> SolverPool:
    """Give a pool of the real worker with faulty solvers in it."""
    return SolverPool(workers, limit_s=1.0, command=(sys.executable, "-P", "-c", FAULTY))


def test_three_nodes_answer_by_three_methods() -> None:
    """The default set serves the demo's topics, and agrees on a simple equation."""

    async def main() -> list[Answer]:
        nodes = embedded_nodes()
        assert [node.capabilities.node for node in nodes] == [
            "embedded-symbolic",
            "embedded-numeric",
            "embedded-search",
        ]
        assert all(node.capabilities.topics == TOPICS and len(node.capabilities.models) == 1 for node in nodes)
        try:
            return [await node.ask(call()) for node in nodes]
        finally:
            for node in nodes:
                await node.close()

    answers = run(main())
    assert [(a.status, a.text, a.node, a.model) for a in answers] == [("ok", "13", "n", "m")] * 3
    assert all(a.meta and a.meta["branches"] and a.score and a.latency_s > 0 for a in answers)


@pytest.mark.parametrize("prompt", ["What is love?", "(" * 2**20, "\ud800", "9**9**9", "\0"])
def test_what_a_node_cannot_read_it_abstains_on(prompt: str) -> None:
    """Small or large, sense or nonsense."""

    async def main() -> list[Answer]:
        nodes = embedded_nodes(workers=1)
        try:
            return [await node.ask(call(prompt)) for node in nodes]
        finally:
            await nodes[0].close()

    assert [a.status for a in run(main())] == ["abstained"] * 3


def test_many_calls_at_once_each_get_their_own_answer() -> None:
    """More than the workers are handed at a time, and none is mixed up."""

    async def main() -> list[Answer]:
        nodes = embedded_nodes()
        try:
            return await asyncio.gather(*(nodes[i % 2].ask(call(f"Solve for k: 2*k = {2 * i}")) for i in range(300)))
        finally:
            await nodes[0].close()

    assert [a.text for a in run(main())] == [str(i) for i in range(300)]


@pytest.mark.parametrize(
    "solver, error",
    [
        ("breaks", "ArithmeticError: two and two"),
        ("loops", "took longer than 1 s"),
        ("deaf", "its process was killed"),
        ("dies", "ended with code 3"),
    ],
)
def test_a_solver_that_fails_is_an_error_and_the_next_call_is_answered(solver: str, error: str) -> None:
    """An exception, an endless loop, one deaf to its alarm, a process that ends: never an abstention, never a hang.

    The calls handed to the process behind it are answered, by a new one where need be.
    """

    async def main() -> list[Answer | BaseException]:
        pool = faulty()
        solving = [SolverNode(solver, pool).ask(call()), *(SolverNode("symbolic", pool).ask(call()) for _ in range(20))]
        try:
            return await asyncio.gather(*solving, return_exceptions=True)
        finally:
            await pool.close()

    failed, *answered = run(main())
    assert isinstance(failed, NodeError)
    assert error in str(failed)
    assert [a.text for a in answered if isinstance(a, Answer)] == ["13"] * 20


def test_what_a_solver_prints_is_no_reply() -> None:
    """Replies have a channel of their own."""

    async def main() -> Answer:
        pool = faulty()
        try:
            return await SolverNode("prints", pool).ask(call())
        finally:
            await pool.close()

    assert run(main()).text == "printed"


@pytest.mark.parametrize("command", [("/nowhere/python",), (sys.executable, "-c", "raise SystemExit(5)")])
def test_workers_that_do_not_start_are_an_error(command: tuple[str, ...]) -> None:
    """Every call fails, none waits, and nothing is started over and over."""

    async def main() -> list[Any]:
        pool = SolverPool(2, command=command)
        solving = (pool.solve("symbolic", QUESTION, 0) for _ in range(40))
        try:
            return await asyncio.gather(*solving, return_exceptions=True)
        finally:
            await pool.close()

    results = run(main())
    assert all(isinstance(result, NodeError) and "does not start" in str(result) for result in results)


def test_a_call_that_is_cancelled_harms_no_other() -> None:
    """Its reply is dropped when it comes."""

    async def main() -> Answer:
        pool = faulty()
        waiting = asyncio.ensure_future(SolverNode("loops", pool).ask(call()))
        await asyncio.sleep(0.05)
        waiting.cancel()
        try:
            return await SolverNode("symbolic", pool).ask(call())
        finally:
            await pool.close()

    assert run(main()).text == "13"


@pytest.mark.parametrize("dying", [0, 2])
def test_calls_that_are_cancelled_before_their_turn_are_not_made(tmp_path: Path, dying: int) -> None:
    """Nor when the process before them has died, and they with it, and a new one takes over."""

    async def main() -> list[Answer]:
        pool = faulty()
        await SolverNode("symbolic", pool).ask(call())
        cancelled = [asyncio.ensure_future(SolverNode("dies", pool).ask(call())) for _ in range(dying)]
        others = [asyncio.ensure_future(SolverNode("symbolic", pool).ask(call())) for _ in range(PIPELINE - dying)]
        cancelled += [
            asyncio.ensure_future(SolverNode("marks", pool).ask(call(str(tmp_path / str(i))))) for i in range(5)
        ]
        others += [asyncio.ensure_future(SolverNode("symbolic", pool).ask(call()))]
        await asyncio.sleep(0)  # now they are all handed in
        for one in cancelled:
            one.cancel()
        try:
            return await asyncio.gather(*others)
        finally:
            await pool.close()

    assert [a.text for a in run(main())] == ["13"] * (PIPELINE - dying + 1)
    assert not list(tmp_path.iterdir())


def test_a_reply_may_come_in_pieces() -> None:
    """Its length, too."""

    async def main() -> list[Answer]:
        pool = SolverPool(1, command=(sys.executable, "-P", "-c", SLOWLY))
        try:
            return [await SolverNode("symbolic", pool).ask(call()) for _ in range(2)]
        finally:
            await pool.close()

    assert [a.text for a in run(main())] == ["13", "13"]


def test_closing_waits_for_a_process_that_is_just_being_started() -> None:
    """And ends it; a call that nobody waits for any more is passed over."""

    async def main() -> tuple[list[BaseException | Answer], int | None]:
        pool = SolverPool(1)
        asking = [asyncio.ensure_future(SolverNode("symbolic", pool).ask(call())) for _ in range(2)]
        await asyncio.sleep(0)
        (worker,) = pool._workers
        asking[0].cancel()
        await pool.close()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert worker.transport is not None
        return results, worker.transport.get_returncode()

    (cancelled, closed), code = run(main())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(closed, NodeError)
    assert "the solvers were closed" in str(closed)
    assert code == -signal.SIGKILL


def test_closing_fails_the_calls_under_way_and_ends_the_processes() -> None:
    """Nothing is left behind."""

    async def main() -> tuple[BaseException | Answer, list[int]]:
        pool = faulty(2)
        await SolverNode("symbolic", pool).ask(call())
        waiting = asyncio.ensure_future(SolverNode("deaf", pool).ask(call()))
        await asyncio.sleep(0.1)
        pids = [worker.transport.get_pid() for worker in pool._workers if worker.transport is not None]
        await pool.close()
        (result,) = await asyncio.gather(waiting, return_exceptions=True)
        return result, pids

    result, pids = run(main())
    assert isinstance(result, NodeError)
    assert pids
    assert not any(map(is_alive, pids))


def test_a_worker_replies_to_each_request_until_its_input_ends() -> None:
    """One that takes too long, and one for a solver that there is not, among them."""
    slow = "Count how many prime numbers there are between 1 and 5000000 (inclusive) ?"
    requests = [
        Request("symbolic", QUESTION, 0, 5.0),
        Request("search", slow, 9, 0.01),
        Request("oracle", QUESTION, 0, 5.0),
        Request("search", "What is love?", 0, 5.0),
    ]
    frames = b"".join(frame(msgspec.msgpack.encode(request)) for request in requests)
    done = subprocess.run(WORKER, input=frames, env=environment(), stdout=subprocess.PIPE, timeout=60, check=True)
    replies, rest = [], done.stdout
    while rest:
        end = 4 + int.from_bytes(rest[:4], "big")
        replies.append(rest[4:end])
        rest = rest[end:]
    assert replies[0] == b"", "it is ready"
    assert [msgspec.msgpack.decode(reply, type=Reply) for reply in replies[1:]] == [
        Reply(Solution("13", 0.99, ANY)),
        Reply(error="took longer than 0.01 s"),
        Reply(error="KeyError: 'oracle'"),
        Reply(),
    ]


def test_a_worker_whose_replies_nobody_reads_ends() -> None:
    """Without a word: whoever started it is gone."""
    with subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.read(4) == bytes(4)
        worker.stdout.close()
        worker.stdin.write(frame(msgspec.msgpack.encode(Request("symbolic", QUESTION, 0, 5.0))))
        worker.stdin.flush()
        assert worker.wait(60) == 0


def test_workers_end_with_the_process_that_started_them() -> None:
    """Even when it is killed and can tell them nothing; and they leave Ctrl-C to it."""
    script = (
        "import asyncio, sys, time\n"
        "from connectors.nodes.embedded import SolverPool\n"
        "async def main():\n"
        "    pool = SolverPool(1)\n"
        f"    await pool.solve('symbolic', {QUESTION!r}, 0)\n"
        "    print(pool._workers[0].transport.get_pid(), flush=True)\n"
        "    time.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT}
    )
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
        assert is_alive(pid)
    finally:
        parent.kill()
        parent.wait()
        if parent.stdout is not None:
            parent.stdout.close()
    deadline = time.monotonic() + 60
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_pool_belongs_to_one_event_loop() -> None:
    """Another loop is told, not left hanging."""
    pool = SolverPool(1)

    async def main() -> None:
        try:
            await pool.solve("symbolic", QUESTION, 0)
        finally:
            await pool.close()

    run(main())
    with pytest.raises(RuntimeError, match="event loop that made its first call"):
        run(main())
