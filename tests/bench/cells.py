"""`python -m tests.bench.cells`: what three cells do together, beside what one does, on Apache Kafka and over HTTP.

A model takes a second for each call, and a cell asks it 200 calls at a time: one cell does 200 calls a second at best,
three do 600. Each number of cells has a fresh broker and a backlog of tasks, and is measured when all of them work.
The server is a process of its own, on the same machine. The last line is one JSON object.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from connectors.kafka import client_config
from connectors.topics import RESULTS, ensure_topics
from tests.apache_kafka import ApacheKafka
from tests.bench.bench import ROOT
from tests.bench.http import NODES, served
from tests.chaos.load import send_many

CELLS = (1, 3)
LANES = 6
AT_A_TIME = 200
CALL_S = 1.0
MEASURED_S = 30.0
WARM_UP_S = 10.0
START_LIMIT_S = 60.0


@contextlib.contextmanager
def running(cells: int, home: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """So many cells, each with a state folder of its own, on one lake; killed at the end."""
    with contextlib.ExitStack() as running:
        for number in range(cells):
            own = {**os.environ, **environment, "AUREON_HOME": str(home), "AUREON_STATE": str(home / f"state-{number}")}
            log = running.enter_context((home / f"cell-{number}.log").open("wb"))
            command = [sys.executable, "-m", "flows.cli", "run"]
            process = subprocess.Popen(command, cwd=ROOT, env=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            running.callback(process.wait)
            running.callback(process.send_signal, signal.SIGKILL)
        yield


def decided_on(brokers: str) -> Callable[[], list[int]]:
    """Tell how many entries the log of each lane has."""
    consumer = Consumer({**client_config(brokers), "group.id": "bench", "enable.auto.commit": False})
    return lambda: [
        consumer.get_watermark_offsets(TopicPartition(RESULTS, lane), timeout=10)[1] for lane in range(LANES)
    ]


def calls_a_second(cells: int, folder: Path) -> float:
    """Calls per second of so many cells, when every lane is at work."""
    broker = ApacheKafka(folder / "broker")
    with served(CALL_S) as url:
        nodes = folder / "nodes.toml"
        nodes.write_text(NODES.format(url=url, at_a_time=AT_A_TIME))
        broker.start()
        try:
            ensure_topics(client_config(broker.brokers), LANES)
            send_many(broker.brokers, LANES, "bench", int(cells * AT_A_TIME / CALL_S * (MEASURED_S + WARM_UP_S + 30)))
            environment = {
                "AUREON_BROKERS": broker.brokers,
                "AUREON_NODES": str(nodes),
                "AUREON_MAX_ROUNDS": "1",
                "AUREON_IN_FLIGHT": str(2 * AT_A_TIME),
                "AUREON_GATE": "off",
            }
            with running(cells, folder, environment):
                decided, deadline = decided_on(broker.brokers), time.monotonic() + START_LIMIT_S
                while not all(decided()):
                    if time.monotonic() > deadline:
                        raise RuntimeError((folder / "cell-0.log").read_text()[-2000:])
                    time.sleep(0.2)
                time.sleep(WARM_UP_S)
                began, before = time.monotonic(), sum(decided())
                time.sleep(MEASURED_S)
                return (sum(decided()) - before) / (time.monotonic() - began)
        finally:
            broker.stop()


def main() -> None:
    """Run both, and print what they gave."""
    argparse.ArgumentParser(
        prog="python -m tests.bench.cells", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    rates = {}
    for cells in CELLS:
        with tempfile.TemporaryDirectory() as folder:
            rates[cells] = calls_a_second(cells, Path(folder))
        ideal = cells * AT_A_TIME / CALL_S
        print(f"{cells} cells: {rates[cells]:,.0f} calls/s, {rates[cells] / ideal:.3f} of {ideal:,.0f}", flush=True)
    one, several = (rates[cells] for cells in CELLS)
    told = {str(cells): round(rate, 1) for cells, rate in rates.items()}
    print(json.dumps({"calls_a_second": told, "ratio": round(several / one, 3)}))


if __name__ == "__main__":
    main()
