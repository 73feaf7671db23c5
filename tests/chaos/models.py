"""Three models that add, behind HTTP, and do what a file says.

    python -m tests.chaos.models --port 8000 --orders orders.json --answered answered.txt

The file says who lies, what share of the calls fails, and how long an answer takes. Each call that is answered is
noted, so that what was paid for can be counted whatever becomes of the processes.
"""

import argparse
import os
import random
import re
import signal
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.chaos.nodes import MODELS
from tests.openai_server import Fault, OpenAIServer, Question, error

SUM = re.compile(r"(\d+)\+(\d+)")


class Orders(Struct, kw_only=True):
    """What the models are to do."""

    liars: list[str] = []
    failing: float = 0.0
    latency_s: float = 0.2


class Models:
    """Answers, as the orders have it."""

    def __init__(self, orders: Path, answered: Path) -> None:
        self._orders = orders
        self._read_at = 0.0
        self._now = Orders()
        self._answered = os.open(answered, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @property
    def orders(self) -> Orders:
        """Those of the last tenth of a second."""
        if time.monotonic() - self._read_at > 0.1:
            self._read_at = time.monotonic()
            self._now = msgspec.json.decode(self._orders.read_bytes(), type=Orders)
        return self._now

    def answer(self, question: Question) -> str:
        """Add, or say something of one's own."""
        model, text = question["model"], question["messages"][-1]["content"]
        found = SUM.search(text)
        right = int(found[1]) + int(found[2]) if found else 0
        os.write(self._answered, f"{model} {found[0] if found else text[:20]}\n".encode())
        return str(right + 7 + len(text) if model in self.orders.liars else right)

    def fault_of(self, _question: Question) -> Fault | None:
        """Fail as often as is ordered, after the time that an answer takes."""
        return error(503, "overloaded") if random.random() < self.orders.failing else None


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--orders", type=Path, required=True)
    parser.add_argument("--answered", type=Path, required=True)
    options = parser.parse_args()
    models = Models(options.orders, options.answered)
    server = OpenAIServer(models.answer, models=MODELS, port=options.port, record=False)
    server.latency_s = models.orders.latency_s
    server.fault_of = models.fault_of
    with server:
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
