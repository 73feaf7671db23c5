"""The cascade over real HTTP through the whole flow: a cell, a broker, the lake, and recorded answers behind a server.

Run it as `python -m tests.bench.cascade_http FILE`, with a file as `tests.bench.cascade` takes it. Models are priced in
the order of the file, each twice the one before. What a task came to is read from the lake; calls are counted by the
server. The truth is looked at only to count.
"""

import argparse
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import one_lake
from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config
from connectors.topics import TASKS, ensure_topics
from flows.comparing.equivalence import number
from tests.bench.bench import Bench, new_bench
from tests.brokers import empty
from tests.openai_server import OpenAIServer

NODE = """
[[node]]
id = "n{place}"
kind = "openai"
url = "{url}"
models = ["{model}"]
price_in = {price}
price_out = {price}
max_tokens = 256
"""
LIMIT_S = 300.0


class Came(NamedTuple):
    """What one run came to."""

    accuracy: float
    calls: Counter[str]
    cost: float


def run(bench: Bench, name: str, rows: Sequence[dict[str, Any]], models: Sequence[str], **settings: str) -> Came:
    """Send all questions through a cell."""
    empty(bench.broker)
    config = client_config(bench.broker.brokers)
    ensure_topics(config, 1)
    said = {row["question"]: row["responses"] for row in rows}
    calls: Counter[str] = Counter()

    def answer(question: dict[str, Any]) -> str:
        asked = next(m["content"] for m in question["messages"] if m["role"] == "user")
        calls[question["model"]] += 1
        return str(said[asked.partition("\n\nEnd with a line")[0]][question["model"]])

    with tempfile.TemporaryDirectory() as folder, OpenAIServer(answer, models=models, record=False) as server:
        nodes = Path(folder) / "nodes.toml"
        entries = [
            NODE.format(place=i, url=server.url, model=m, price=2.0 ** list(rows[0]["responses"]).index(m))
            for i, m in enumerate(models)
        ]
        nodes.write_text("".join(entries))
        producer = CheckedProducer(config)
        for place, row in enumerate(rows):
            payload = {"prompt": row["question"], "answer_kind": "number"}
            task = {"topic": "math", "logical_id": f"q{place}", "payload": payload}
            producer.send(TASKS, 0, [msgspec.json.encode(task)], [f"q{place}".encode()])
        producer.flush()
        producer.close()
        # one round, and few at a time: what a round teaches is known to those soon after it
        process, home = bench.start(
            name, str(nodes), **{"max_rounds": "1", "in_flight": "8", "score_threshold": "0.85", **settings}
        )
        try:
            found = _wait(home / "lake", len(rows))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    right = sum(number(answer or "") == number(rows[int(q[1:])]["truth"]) for q, answer, _ in found)
    return Came(right / len(rows), calls, sum(cost for *_, cost in found) / len(rows))


def _wait(lake: Path, count: int) -> list[tuple[str, str | None, float]]:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        time.sleep(1)
        if (lake / "rounds" / "_delta_log").exists():
            with one_lake.connect(lake) as db:
                found = db.execute("SELECT logical_id, answer, cost FROM rounds WHERE kind != 'started'").fetchall()
            if len(found) >= count:
                return found
    raise RuntimeError("not all questions were decided")


def main() -> None:
    """Print the curve."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cascade_http", description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--agree", default="0.9,0.95,0.97,0.98,0.99", help="confidences at which a cascade stops")
    given = parser.parse_args()
    rows = [msgspec.json.decode(line) for line in given.file.read_bytes().splitlines() if line.strip()]
    models = list(rows[0]["responses"])
    strongest = models[-1]
    with new_bench() as bench:
        alone = run(bench, "alone", rows, [strongest])
        print(f"{len(rows)} questions over HTTP, {bench.broker.name} broker; the strongest model is {strongest}")
        print(f"  {'':<24}{'accuracy':>9}{'gap':>9}{'strongest':>11}{'all calls':>11}{'cost/task':>11}")
        _print("strongest alone", alone, alone, strongest, len(rows))
        _print("all", run(bench, "all", rows, models), alone, strongest, len(rows))
        for agree in given.agree.split(","):
            came = run(bench, f"cascade-{agree}", rows, models, routing="cascade", cascade_agree=agree)
            _print(f"cascade agree={agree}", came, alone, strongest, len(rows))


def _print(name: str, came: Came, alone: Came, strongest: str, tasks: int) -> None:
    share, whole = came.calls[strongest] / tasks, sum(came.calls.values()) / tasks
    print(
        f"  {name:<24}{came.accuracy:>9.3f}{came.accuracy - alone.accuracy:>+9.3f}{share:>11.1%}{whole:>11.2f}"
        f"{came.cost:>11.6f}"
    )


if __name__ == "__main__":
    main()
