"""Checks: what a verifier says of answers, asked where it may take its time.

    answered round ─► (a thread of its own) verifier ─► checks ─► enough? ─► validate

A verifier is a user's function, or runs untrusted code: no thread that decides waits for it. One that takes longer than
it may has given no verdict; its thread cannot be ended and goes on, as one of those that there may be at a time.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping

from msgspec import Struct

AT_A_TIME = 8


class Checks(Struct, frozen=True, gc=False):
    """What a verifier said of the answers that it was asked about."""

    verdicts: Mapping[str, bool | None] = {}
    """By text of the answer; None where it gave no verdict."""
    warnings: tuple[str, ...] = ()


class Checking:
    """Threads in which verifiers are asked."""

    def __init__(self) -> None:
        self._slots: asyncio.Semaphore | None = None

    async def ask(self, check: Callable[[], Checks], limit_s: float, before: Checks | None) -> Checks:
        """Have a verifier asked; gives what it said, or within the limit has not.

        Args:
            check: asks it; what it raises is no verdict.
            limit_s: how long that may take, the wait for a free thread included.
            before: what was said already.
        """
        loop = asyncio.get_running_loop()
        if self._slots is None:
            self._slots = asyncio.Semaphore(AT_A_TIME)
        slots = self._slots
        said: asyncio.Future[Checks] = loop.create_future()

        def finish(found: Checks | None, error: BaseException | None) -> None:
            slots.release()
            if said.done():  # given up
                return
            if found is not None:
                said.set_result(found)
            else:
                said.set_result(_with(before, f"the verifier failed: {type(error).__name__}: {error}"[:300]))

        def work() -> None:
            found: Checks | None = None
            problem: BaseException | None = None
            try:
                found = check()
            except BaseException as error:  # noqa: BLE001 - a user's function; its failure is no verdict
                problem = error
            try:
                loop.call_soon_threadsafe(finish, found, problem)
            except RuntimeError:  # the loop has ended
                return

        try:
            async with asyncio.timeout(limit_s):
                await slots.acquire()
                try:
                    threading.Thread(target=work, name="verifier", daemon=True).start()
                except RuntimeError as error:  # this process may have no more threads
                    finish(None, error)
                return await said
        except TimeoutError:
            return _with(before, f"the verifier gave no verdict within {limit_s:g} s")


def _with(before: Checks | None, warning: str) -> Checks:
    if before is None:
        return Checks(warnings=(warning,))
    return Checks(before.verdicts, (*before.warnings, warning))
