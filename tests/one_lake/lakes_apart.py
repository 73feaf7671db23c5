"""Lakes of different clusters, each with its own key, that answered some of the same ids."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from one_lake.keys import SigningKey
from one_lake.writer import LakeWriter
from schemas.one import Row
from tests.one_lake.lake_data import branch, dead_letter, hash_at, record, round_row

KEYS = {name: SigningKey(Ed25519PrivateKey.from_private_bytes(name.encode() * 32)) for name in "abcm"}
MERGING = KEYS["m"]


def converged(cluster: str, offset: int, name: str, lane: int = 0, **changes: Any) -> list[Row]:
    """All rows of a decision on an id; `changes` are of its record and of its round."""
    same = {"logical_id": name, "cluster": cluster, "decision_hash": hash_at(ord(cluster), offset)} | changes
    of_round = {k: v for k, v in same.items() if k in ("flags", "effective_votes")}
    of_record = {k: v for k, v in same.items() if k not in of_round}
    told = {k: v for k, v in of_record.items() if k in ("answer", "score", "forced", "evidence", "confidence")}
    named = {"logical_id": name, "cluster": cluster, "decision_hash": same["decision_hash"]}
    return [
        record(lane, offset, **of_record),
        branch(lane, offset, 0, **{k: v for k, v in named.items() if k != "logical_id"}, parent_id=name),
        round_row(lane, offset, **named, **told, **of_round),
    ]


def died(cluster: str, offset: int, name: str, lane: int = 0) -> list[Row]:
    """All rows of a decision that an id is dead."""
    named = {"logical_id": name, "cluster": cluster, "decision_hash": hash_at(ord(cluster), offset)}
    return [dead_letter(lane, offset, **named), round_row(lane, offset, **named, kind="dead")]


def write(lake: Path, cluster: str, *commits: Iterable[Row]) -> Path:
    """Write a lake, or more of one."""
    writer = LakeWriter(lake, KEYS[cluster], cluster)
    for rows in commits:
        writer.add(rows)
        writer.flush()
    writer.close()
    return lake
