"""`make bench`: all figures of README's table from one run, beside the raw loop on the same broker.

Tasks take three rounds, on one partition. The last line is one JSON object.

AUREON_BENCH_SCALE=0.2 takes a fifth of the tasks, AUREON_TEST_KAFKA=apache runs it on Apache Kafka.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from tests.bench.bench import ROOT, Bench, new_bench
from tests.bench.http import SHORT_AT_A_TIME, calls_a_second
from tests.bench.scale import Scale


def help_s() -> float:
    """Seconds that `aureon --help` takes; the median of five."""
    took = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "flows.cli", "--help"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def measure(bench: Bench) -> dict[str, float]:
    """Measure all of it, one after the other."""
    raw = bench.raw(bench.tasks(200_000))
    one, memory = bench.cell("one", "instant", bench.tasks(60_000))
    gated, _ = bench.cell("gated", "instant", bench.tasks(60_000), gate="on")
    three, _ = bench.cell("three", "instant_three", bench.tasks(40_000))
    slow, _ = bench.cell("slow", "slow", bench.tasks(30_000), in_flight="1500")
    alone = sorted(bench.single(70))
    http = calls_a_second(bench, "http", 0.0, SHORT_AT_A_TIME, bench.tasks(20_000))
    resume = Scale(bench).resume(bench.tasks(5_000))
    return {
        "raw_rounds_per_s": round(raw),
        "rounds_per_s": round(one),
        "ratio": round(one / raw, 3),
        "gated_ratio": round(gated / one, 3),
        "ensemble_rounds_per_s": round(three),
        "ensemble_ratio": round(three / raw, 3),
        "efficiency": round(slow / 5000, 3),
        "single_p50_ms": round(statistics.median(alone), 1),
        "single_p99_ms": round(alone[int(len(alone) * 0.99)], 1),
        "http_calls_per_s": round(http),
        "resume_s": round(resume, 2),
        "help_s": round(help_s(), 2),
        "peak_rss_mb": round(memory),
    }


ROWS = (
    ("raw loop, rounds/s", "{raw_rounds_per_s:,}"),
    ("one instant model, rounds/s", "{rounds_per_s:,}   {ratio:.3f} of raw"),
    ("the same, records judged by the gate", "{gated_ratio:.3f} of that"),
    ("three instant models, rounds/s", "{ensemble_rounds_per_s:,}   {ensemble_ratio:.3f} of raw"),
    ("100 ms, 500 in flight", "{efficiency:.3f} of 5,000 rounds/s"),
    ("one task alone, ms p50 / p99", "{single_p50_ms} / {single_p99_ms}"),
    ("HTTP, 200 at a time, calls/s", "{http_calls_per_s:,}"),
    ("a killed cell, start to first decision, s", "{resume_s}"),
    ("aureon --help, s", "{help_s}"),
    ("peak memory with one instant model, MB", "{peak_rss_mb}"),
)


def main() -> None:
    """Run all of it and print the table."""
    argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with new_bench() as bench:
        figures = measure(bench)
        print(f"{bench.broker.name} broker, one partition, three rounds a task")
    for name, form in ROWS:
        print(f"  {name:<40}{form.format(**figures)}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
