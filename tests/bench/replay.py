"""`python -m tests.bench.replay`: 100,000 rounds decided by a cell with instant models, and decided again by a replay.

Both rates are those of the steady state: the cell's between the first and the last commit, the replay's between its
first part and its last. That over all of `aureon replay`, with its start and its report, stands beside it. The last
line is one JSON object. AUREON_BENCH_SCALE=0.2 takes a fifth of the rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from tests.bench.bench import ROOT, ROUNDS, new_bench

TASKS = 33_400


def _steady(run: Path) -> float:
    """Rounds per second between the first part of a run and the last."""
    parts = sorted((path.stat().st_mtime_ns, pq.read_metadata(path).num_rows) for path in run.glob("part-0*.parquet"))
    return float(sum(rows for _, rows in parts[1:]) / (parts[-1][0] - parts[0][0]) * 1e9)


def main() -> None:
    """Run both and print them."""
    argparse.ArgumentParser(
        prog="python -m tests.bench.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    figures = {}
    with new_bench() as bench:
        tasks = bench.tasks(TASKS)
        for nodes in ("instant", "instant_three"):
            live, _ = bench.cell(nodes, nodes, tasks)
            environment = {**os.environ, "AUREON_SCORE_THRESHOLD": "0.9", "AUREON_HOME": str(bench.home(nodes))}
            command = [sys.executable, "-m", "flows.cli", "replay", "re-decide", "--run", "again", "--json"]
            started = time.perf_counter()
            told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True, text=True)
            whole = ROUNDS * tasks / (time.perf_counter() - started)
            outcomes = json.loads(told.stdout)["outcomes"]
            if outcomes != {"identical": ROUNDS * tasks}:
                raise RuntimeError(f"decided otherwise by the same rules: {outcomes}")
            again = _steady(bench.home(nodes) / "lake" / "runs" / "again")
            print(
                f"{nodes}: live {live:,.0f} rounds/s; again {again:,.0f} rounds/s, {again / live:.1f} times as fast; "
                f"with start and report {whole:,.0f} rounds/s"
            )
            figures[nodes] = {
                "live": round(live),
                "again": round(again),
                "whole": round(whole),
                "ratio": round(again / live, 2),
            }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
