"""Rows of made-up decisions, a pure function of lane and decision offset, and what a lake holds of them."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import one_lake
from one_lake.keys import SigningKey
from one_lake.writer import LakeWriter
from schemas.ids import content_hash
from schemas.one import TABLES, BranchRow, DeadLetterRow, Record, RoundRow, Row

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
CLUSTER = "a-cluster"


def lake_writer(lake_dir: Path, key: SigningKey = KEY) -> LakeWriter:
    """Open a lake for writing."""
    return LakeWriter(lake_dir, key, CLUSTER)


def record(lane: int, offset: int, **changes: Any) -> Record:
    """Make a record; `changes` replace its values."""
    values: dict[str, Any] = {
        "lane": lane,
        "decision_offset": offset,
        "topic": "math",
        "logical_id": f"task-{lane}-{offset}",
        "generation": 0,
        "payload": '{"question": "1 + 1"}',
        "answer": "2",
        "score": 0.75,
        "confidence": 0.5,
        "agreement": 1.0,
        "round_index": 0,
        "attempt": 0,
        "reason": "agreed",
        "forced": False,
        "evidence": "cross-model",
        "policy": "agreement >= 0.8",
        "models": ["small", "large"],
        "nodes": ["here"],
        "calls": 2,
        "tokens": 70,
        "cost": 0.01,
        "metadata": "{}",
        "started_at": 1_700_000_000_250_000,
        "converged_at": 1_700_000_001_500_000,
        "parent_topic": None,
        "parent_id": None,
        "root_topic": "math",
        "root_id": "root",
        "depth": 0,
        "previous_lane": None,
        "previous_offset": None,
        "cluster": CLUSTER,
        "decision_hash": hash_at(lane, offset),
    }
    values |= changes
    if "content_hash" not in values:
        asked = values["topic"], values["logical_id"], values["generation"], values["payload"].encode()
        values["content_hash"] = content_hash(*asked, values["answer"])
    return Record(**values)


def hash_at(lane: int, offset: int) -> str:
    """The hash of a decision."""
    return hashlib.sha256(f"{lane}@{offset}".encode()).hexdigest()


def round_row(lane: int, offset: int, **changes: Any) -> RoundRow:
    """Make a row of `rounds`; `changes` replace its values."""
    values: dict[str, Any] = {
        "lane": lane,
        "decision_offset": offset,
        "kind": "converged",
        "task_id": f"task-{lane}-{offset}:r0",
        "topic": "math",
        "logical_id": f"task-{lane}-{offset}",
        "generation": 0,
        "round_index": 0,
        "attempt": 0,
        "kafka_topic": "tasks.global",
        "message_offset": offset,
        "introduces": True,
        "payload_digest": hashlib.sha256(f"{lane}/{offset}".encode()).hexdigest(),
        "reason": "agreed",
        "detail": "",
        "forced": False,
        "policy": "agreement >= 0.8",
        "answer": "2",
        "score": 0.75,
        "confidence": 0.5,
        "agreement": 1.0,
        "evidence": "cross-model",
        "candidates": "[]",
        "flags": [],
        "warnings": [],
        "cut_off": [],
        "routing": "all",
        "calls": 2,
        "tokens": 70,
        "cost": 0.01,
        "latency_s": 0.2,
        "decided_at": 1_700_000_001_500_000,
        "previous_lane": None,
        "previous_offset": None,
        "cause_lane": None,
        "cause_offset": None,
        "cluster": CLUSTER,
        "decision_hash": hash_at(lane, offset),
    }
    return RoundRow(**values | changes)


def branch(lane: int, offset: int, index: int, **changes: Any) -> BranchRow:
    """Make a row of `branches`; `changes` replace its values."""
    values: dict[str, Any] = {
        "lane": lane,
        "decision_offset": offset,
        "index": index,
        "topic": "coding",
        "logical_id": f"task-{lane}-{offset}:branch-{index}",
        "generation": 0,
        "parent_topic": "math",
        "parent_id": f"task-{lane}-{offset}",
        "root_topic": "math",
        "root_id": f"task-{lane}-{offset}",
        "depth": 1,
        "priority": 5,
        "score": 0.5,
        "payload": "{}",
        "spawned_at": 1_700_000_001_500_000,
        "cluster": CLUSTER,
        "decision_hash": hash_at(lane, offset),
    }
    return BranchRow(**values | changes)


def dead_letter(lane: int, offset: int, **changes: Any) -> DeadLetterRow:
    """Make a row of `dead_letters`; `changes` replace its values."""
    values: dict[str, Any] = {
        "lane": lane,
        "decision_offset": offset,
        "task_id": f"task-{lane}-{offset}:r0",
        "topic": "math",
        "logical_id": f"task-{lane}-{offset}",
        "generation": 0,
        "round_index": 0,
        "attempt": 0,
        "reason": "agreed",
        "detail": "",
        "kafka_topic": "tasks.global",
        "message_offset": offset,
        "payload": None,
        "raw": "",
        "history": ["r0: timeout"],
        "died_at": 1_700_000_001_500_000,
        "cluster": CLUSTER,
        "decision_hash": hash_at(lane, offset),
    }
    return DeadLetterRow(**values | changes)


def decision(lane: int, offset: int) -> list[Row]:
    """All rows of one decision: of three, one converges with up to three branches, one dies, one goes on."""
    kind = ("converged", "dead", "next_round")[offset % 3]
    rows: list[Row] = [round_row(lane, offset, kind=kind, introduces=offset % 2 == 0)]
    if kind == "converged":
        rows += [record(lane, offset), *(branch(lane, offset, index) for index in range(offset % 4))]
    elif kind == "dead":
        rows.append(dead_letter(lane, offset))
    return rows


def decisions(lane: int, offsets: Sequence[int]) -> Iterator[Row]:
    """All rows of some decisions of a lane."""
    return (row for offset in offsets for row in decision(lane, offset))


def held(lake_dir: Path, as_of: str | None = None) -> dict[str, list[tuple[int, int, str]]]:
    """What a lake holds: by table, in order, (lane, decision offset, all values)."""
    with one_lake.connect(lake_dir, as_of=as_of) as lake:
        return {
            table: lake.sql(f"SELECT lane, decision_offset, t::VARCHAR FROM {table} t ORDER BY ALL").fetchall()  # noqa: S608
            for table in TABLES
        }


def names(rows: list[tuple[int, int, str]]) -> list[tuple[int, int]]:
    """Of held rows, lane and decision offset."""
    return [(lane, offset) for lane, offset, _ in rows]


def expected_names(table: str, lanes: int, decided: int) -> list[tuple[int, int]]:
    """Which rows a table holds, each once, when so many decisions of each lane are in the lake."""
    return sorted(
        (row.lane, row.decision_offset)
        for lane in range(lanes)
        for row in decisions(lane, range(decided))
        if type(row) is TABLES[table]
    )
