"""`python -m tests.bench.http`: model calls over real HTTP through the whole flow, one cell, one lane.

    long     calls of a second, 500 of them at a time: how close to the 500 calls/s that this can give at best
    short    calls that are answered at once, 200 at a time: how many calls/s one cell sustains

The server is a process of its own, on the same machine. Every call is a round that is decided, logged and in the lake.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.bench import ROOT, ROUNDS, Bench, new_bench

LONG_S = 1.0
LONG_AT_A_TIME = 500
SHORT_AT_A_TIME = 200
NODES = """
[[node]]
id = "server"
kind = "openai"
url = "{url}"
models = ["m"]
max_concurrency = {at_a_time}
"""


@contextmanager
def served(latency_s: float) -> Iterator[str]:
    """A server of chat completions in a process of its own; gives its URL."""
    command = [sys.executable, "-m", "tests.openai_server", "--latency", str(latency_s)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise RuntimeError("it says nothing")
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.communicate(timeout=10)


def calls_a_second(bench: Bench, name: str, latency_s: float, at_a_time: int, tasks: int) -> float:
    """Calls per second of a cell in the steady state."""
    with tempfile.TemporaryDirectory() as folder, served(latency_s) as url:
        nodes = Path(folder) / "nodes.toml"
        nodes.write_text(NODES.format(url=url, at_a_time=at_a_time))
        rate, _ = bench.cell(name, str(nodes), tasks, in_flight=str(3 * at_a_time))
    return rate


def main() -> None:
    """Run both, and print what they gave."""
    argparse.ArgumentParser(
        prog="python -m tests.bench.http", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with new_bench() as bench:
        long = calls_a_second(bench, "long", LONG_S, LONG_AT_A_TIME, bench.tasks(15_000) // ROUNDS)
        short = calls_a_second(bench, "short", 0.0, SHORT_AT_A_TIME, bench.tasks(60_000) // ROUNDS)
    ideal = LONG_AT_A_TIME / LONG_S
    print(f"{bench.broker.name} broker, one lane, calls over HTTP")
    print(f"  {LONG_AT_A_TIME} at a time of {LONG_S:g} s, calls/s   {long:,.0f}   {long / ideal:.3f} of {ideal:,.0f}")
    print(f"  {SHORT_AT_A_TIME} at a time, answered at once, calls/s   {short:,.0f}")


if __name__ == "__main__":
    main()
