"""A large lake of made-up decisions: a seeded generator, and what it takes to ask and to verify such a lake.

    python -m tests.bench.lake generate FOLDER RECORDS [SEED]
    python -m tests.bench.lake measure FOLDER

Of a hundred tasks, ten take a second round, one ends as a dead letter, and one is the root of a lineage of depth 10.
"""

import argparse
import hashlib
import json
import multiprocessing
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

import one_lake
from one_lake import tables
from one_lake.keys import signing_key
from one_lake.writer import LakeWriter
from schemas.ids import content_hash
from schemas.one import TABLES, BranchRow, DeadLetterRow, Record, RoundRow, Row

ROOT = Path(__file__).parents[2]

CLUSTER = "6f1c2f0e-2b51-4a6e-9a53-1d2f8c0c5a11"
LANES = 8
TOPICS = ("math", "coding", "logic", "probability", "history", "law", "medicine", "physics")
DECISIONS_PER_COMMIT = 20_000
DEPTH = 10
BEGAN_US = 1_780_000_000_000_000
MODELS = ("small-8b", "medium-32b", "large-120b")


class _Lane:
    """The decisions of one lane, in order."""

    def __init__(self, lane: int, seed: int) -> None:
        self.lane = lane
        self.offset = 0
        self.records = 0
        self._chance = random.Random(f"{seed}/{lane}")

    def task(self) -> Iterator[Row]:
        """All rows of one task, and of its lineage if it has one."""
        chance = self._chance
        number = self.records
        topic = TOPICS[chance.randrange(len(TOPICS))]
        logical_id = f"{topic}-{self.lane}-{number}"
        kind = chance.random()
        if kind < 0.01:
            yield from self._dead(topic, f"{logical_id}-dead")
        elif kind < 0.02:
            root, ancestors = (topic, logical_id), [(topic, logical_id)]
            yield from self._converge(topic, logical_id, None, root, 0, has_branch=True)
            for depth in range(1, DEPTH + 1):
                parent = ancestors[-1]
                child = (TOPICS[(TOPICS.index(parent[0]) + 1) % len(TOPICS)], f"{parent[1]}:branch-0")
                ancestors.append(child)
                yield from self._converge(*child, parent, root, depth, has_branch=depth < DEPTH)
        else:
            previous = None
            if chance.random() < 0.1:
                yield self._round(topic, logical_id, "next_round", 0, None)
                previous = self.offset - 1
            yield from self._converge(topic, logical_id, None, (topic, logical_id), 0, previous=previous)

    def _converge(
        self,
        topic: str,
        logical_id: str,
        parent: tuple[str, str] | None,
        root: tuple[str, str],
        depth: int,
        *,
        has_branch: bool = False,
        previous: int | None = None,
    ) -> Iterator[Row]:
        chance, offset = self._chance, self.offset
        a, b = chance.randrange(1_000_000), chance.randrange(1_000_000)
        payload = f'{{"prompt":"What is {a} plus {b}? Explain how you know, in a sentence.","answer_kind":"number"}}'
        answer = str(a + b)
        at = BEGAN_US + offset * 1000
        round_index = 0 if previous is None else 1
        cause = previous if previous is not None else (offset - 1 if parent is not None else None)
        yield Record(
            lane=self.lane,
            decision_offset=offset,
            topic=topic,
            logical_id=logical_id,
            generation=0,
            payload=payload,
            answer=answer,
            score=0.9,
            confidence=0.93,
            agreement=1.0,
            round_index=round_index,
            attempt=0,
            reason="agreed",
            forced=False,
            evidence="cross-model",
            policy="threshold(0.8)",
            models=list(MODELS[:2]),
            nodes=["local", "paid"],
            calls=3,
            tokens=chance.randrange(100, 900),
            cost=0.0001 * chance.randrange(100),
            metadata='{"customer":"42"}',
            started_at=at - 1_500_000,
            converged_at=at,
            content_hash=content_hash(topic, logical_id, 0, payload.encode(), answer),
            parent_topic=parent[0] if parent is not None else None,
            parent_id=parent[1] if parent is not None else None,
            root_topic=root[0],
            root_id=root[1],
            depth=depth,
            previous_lane=self.lane if previous is not None else None,
            previous_offset=previous,
            cluster=CLUSTER,
            labels=[topic],
            provenance='{"software":"aureon 0.1.0","policy":"threshold(0.8)","models":[{"node":"local",'
            '"model":"small-8b","gave_it":true},{"node":"paid","model":"large-120b","gave_it":true}]}',
            decision_hash=hash_at(self.lane, offset),
        )
        if has_branch:
            yield BranchRow(
                lane=self.lane,
                decision_offset=offset,
                index=0,
                topic=TOPICS[(TOPICS.index(topic) + 1) % len(TOPICS)],
                logical_id=f"{logical_id}:branch-0",
                generation=0,
                parent_topic=topic,
                parent_id=logical_id,
                root_topic=root[0],
                root_id=root[1],
                depth=depth + 1,
                priority=5,
                score=0.5,
                payload=payload,
                spawned_at=at,
                cluster=CLUSTER,
                decision_hash=hash_at(self.lane, offset),
            )
        self.records += 1
        yield self._round(topic, logical_id, "converged", round_index, cause, answer)

    def _dead(self, topic: str, logical_id: str) -> Iterator[Row]:
        offset = self.offset
        yield DeadLetterRow(
            lane=self.lane,
            decision_offset=offset,
            task_id=f"{logical_id}:r0",
            topic=topic,
            logical_id=logical_id,
            generation=0,
            round_index=0,
            attempt=0,
            reason="agreed",
            detail="",
            kafka_topic="tasks.global",
            message_offset=offset,
            payload='{"prompt":"?"}',
            raw="",
            history=["round 0: timeout"],
            died_at=BEGAN_US + offset * 1000,
            cluster=CLUSTER,
            decision_hash=hash_at(self.lane, offset),
        )
        self.records += 1
        yield self._round(topic, logical_id, "dead", 0, None)

    def _round(
        self, topic: str, logical_id: str, kind: str, round_index: int, cause: int | None, answer: str = "7"
    ) -> RoundRow:
        offset = self.offset
        self.offset += 1
        return RoundRow(
            lane=self.lane,
            decision_offset=offset,
            kind=kind,
            task_id=f"{logical_id}:r{round_index}",
            topic=topic,
            logical_id=logical_id,
            generation=0,
            round_index=round_index,
            attempt=0,
            kafka_topic="tasks.global",
            message_offset=offset,
            introduces=round_index == 0,
            payload_digest=hash_at(self.lane, offset)[:16],
            reason="agreed",
            detail="",
            forced=False,
            policy="threshold(0.8)",
            answer=answer,
            score=0.9,
            confidence=0.93,
            agreement=1.0,
            evidence="cross-model",
            candidates=f'[{{"node":"local","model":"small-8b","text":"{answer}","tokens":41}},'
            f'{{"node":"paid","model":"large-120b","text":"{answer}","tokens":77}}]',
            flags=[],
            warnings=[],
            cut_off=[],
            routing="all",
            calls=2,
            tokens=118,
            cost=0.0002,
            latency_s=0.25,
            decided_at=BEGAN_US + offset * 1000,
            previous_lane=self.lane if round_index else None,
            previous_offset=cause if round_index else None,
            cause_lane=self.lane if cause is not None else None,
            cause_offset=cause,
            effective_votes=1.8,
            cluster=CLUSTER,
            prompt_hash=hash_at(self.lane, offset),
            software="aureon 0.1.0",
            decision_hash=hash_at(self.lane, offset),
            cause_hash=hash_at(self.lane, cause) if cause is not None else None,
        )


def hash_at(lane: int, offset: int) -> str:
    """The hash of a decision."""
    return hashlib.sha256(b"%d@%d" % (lane, offset)).hexdigest()


def generate(folder: Path, lanes: list[int], records: int, seed: int) -> None:
    """Write so many tasks to some lanes."""
    writer = LakeWriter(folder / "lake", signing_key(folder / "state"), CLUSTER)
    of_lane = {lane: _Lane(lane, seed) for lane in lanes}
    done = 0
    while done < records:
        for lane in of_lane.values():
            before, start = lane.records, lane.offset
            while lane.offset - start < DECISIONS_PER_COMMIT // len(lanes) and done + lane.records - before < records:
                writer.add(lane.task())
            done += lane.records - before
        writer.flush()
    writer.close()


_BARE_LINEAGE = """
WITH RECURSIVE down(depth, topic, logical_id) AS (
    SELECT 0, topic, logical_id FROM records WHERE logical_id = '{id}'
    UNION
    SELECT down.depth + 1, b.topic, b.logical_id
    FROM down JOIN branches b ON b.parent_topic = down.topic AND b.parent_id = down.logical_id
)
SELECT * FROM down LEFT JOIN records USING (topic, logical_id)
"""
"""Without what the lake's own lineage knows of ids."""


def measure(folder: Path) -> dict[str, float]:
    """Ask the lake, and the bare files, the same; and verify it."""
    lake_dir = folder / "lake"
    with one_lake.connect(lake_dir) as lake, duckdb.connect() as bare:
        for table in TABLES:
            files = tables.files(lake_dir, table, tables.open_table(lake_dir, table))
            bare.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet({files!r})")  # noqa: S608 - names of ours
        ids = [i for (i,) in lake.sql("SELECT logical_id FROM records USING SAMPLE 60").fetchall()]
        roots = [i for (i,) in lake.sql("SELECT root_id FROM records WHERE depth = 10 LIMIT 10").fetchall()]
        point = "SELECT answer, score, payload FROM {} WHERE logical_id = '{}'"
        count = "SELECT topic, count(*) FROM {} GROUP BY topic"
        figures = {
            "point_ms": _median_ms(lake, [point.format("one", i) for i in ids]),
            "point_bare_ms": _median_ms(bare, [point.format("records", i) for i in ids]),
            "count_ms": _median_ms(lake, [count.format("one")] * 9),
            "count_bare_ms": _median_ms(bare, [count.format("records")] * 9),
            "lineage_ms": _median_ms(lake, [f"FROM lineage('{i}')" for i in roots]),
            "lineage_bare_ms": _median_ms(bare, [_BARE_LINEAGE.format(id=i) for i in roots]),
        }
        ((records,),) = lake.sql("SELECT count(*) FROM one").fetchall()
    began = time.perf_counter()
    peak = _peak_mb([sys.executable, "-m", "flows.cli", "verify", "--lake", str(lake_dir)])
    return {
        "records": records,
        **figures,
        "verify_records_per_s": records / (time.perf_counter() - began),
        "verify_peak_mb": peak,
    }


def _median_ms(connection: duckdb.DuckDBPyConnection, queries: Sequence[str]) -> float:
    took = []
    for query in queries:
        began = time.perf_counter()
        connection.sql(query).fetchall()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def _peak_mb(command: Sequence[str]) -> float:
    """Run a command; the most memory that it and its children had together, in MB (proportional set size)."""
    process = subprocess.Popen(command, cwd=ROOT)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(map(_pss_mb, _family(process.pid))))
        time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return peak


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))
    except FileNotFoundError:
        return


def _pss_mb(pid: int) -> float:
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(told.split("Pss:")[1].split()[0]) / 1024 if "Pss:" in told else 0.0


def _show(figures: dict[str, float]) -> None:
    print(f"{figures['records']:,.0f} records" + " " * 22 + "lake   bare Parquet files")
    for name, about in (("point", "look-up by id"), ("count", "count by topic"), ("lineage", "lineage of depth 10")):
        print(f"  {about + ', ms':<28}{figures[name + '_ms']:>12.1f}{figures[name + '_bare_ms']:>12.1f}")
    print(f"  {'verify, records/s':<28}{figures['verify_records_per_s']:>12,.0f}")
    print(f"  {'verify, peak memory, MB':<28}{figures['verify_peak_mb']:>12,.0f}")
    print(json.dumps({name: round(value, 1) for name, value in figures.items()}))


def main() -> None:
    """Generate a lake, or measure one."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.lake", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("generate", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("records", type=int, nargs="?", default=10_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    if options.what == "generate":
        halves = [[lane for lane in range(LANES) if lane % 2 == half] for half in (0, 1)]
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=generate, args=(options.folder, half, options.records // 2, options.seed))
            for half in halves
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        took = time.perf_counter() - began
        print(f"{options.records:,} tasks in {took:.0f} s, {options.records / took:,.0f} a second")
        sys.exit(any(process.exitcode for process in processes))
    _show(measure(options.folder))


if __name__ == "__main__":
    main()
