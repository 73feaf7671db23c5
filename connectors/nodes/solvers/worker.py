"""The process in which solvers run: requests come in on stdin, replies go out on stdout, in order.

A call that takes too long is ended by an alarm, which works because solvers run in the main thread. The end of stdin
is the end of the process, so it does not outlive the one that started it. (PR_SET_PDEATHSIG would look at the
starting thread instead, and that may well end sooner.)
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import BinaryIO

import msgspec

from connectors.nodes.solvers import Solution, numeric, search, symbolic
from connectors.nodes.solvers.wire import Reply, Request, frame

SOLVERS: dict[str, Callable[[str, int], Solution | None]] = {
    "symbolic": symbolic.solve,
    "numeric": numeric.solve,
    "search": search.solve,
}


class _AlarmError(BaseException):
    """The time is up. Not an Exception, so that no solver takes it for one of its own."""


def _alarm(_signum: int, _frame: FrameType | None) -> None:
    raise _AlarmError


def answer(request: Request) -> Reply:
    """Run one solver within its time."""
    try:
        signal.setitimer(signal.ITIMER_REAL, request.limit_s)
        try:
            return Reply(SOLVERS[request.solver](request.prompt, request.round_index))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _AlarmError:
        return Reply(error=f"took longer than {request.limit_s:g} s")
    except Exception as error:  # noqa: BLE001 - whatever a solver raises is the answer to this call alone
        return Reply(error=f"{type(error).__name__}: {error}"[:500])


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer until there are no more requests."""
    decode = msgspec.msgpack.Decoder(Request).decode
    encode = msgspec.msgpack.Encoder().encode
    while header := requests.read(4):
        replies.write(frame(encode(answer(decode(requests.read(int.from_bytes(header, "big")))))))
        replies.flush()


def main() -> None:
    """Say that it is ready, with an empty document, then serve."""
    # Ctrl-C goes to the whole group of processes; the one that started this decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _alarm)
    # What a library prints must not get among the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # The first use of each solver loads what its libraries put off.
    for solve in (symbolic.solve, numeric.solve, search.solve):
        solve("Solve for real x: x**2 - 2 = 0\nIn solving equations, to 4 decimal places.", 0)
    try:
        replies.write(frame(b""))
        replies.flush()
        serve(sys.stdin.buffer, replies)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
