"""What all processes of a cluster share: its broker, its lanes and their inputs, its key, and whose a folder is."""

import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from connectors.embedded import EmbeddedBroker
from connectors.kafka import client_config
from connectors.topics import RETRY, TASKS, TASKS_HIGH, TASKS_NEXT
from connectors.whole_files import ANYBODY, make_once
from flows.settings import Settings
from schemas.errors import UNREADABLE, RefusedError

INPUTS: Mapping[str, int] = {TASKS_HIGH: 8, TASKS_NEXT: 4, RETRY: 2, TASKS: 1}
"""The inputs of a lane with the share of turns each gets while all have something; none is ever starved."""


def brokers_of(settings: Settings) -> str:
    """The address of the broker: the user's, or that of the embedded one, which has to be running.

    Raises:
        RefusedError: there is none.
    """
    if settings.brokers:
        return settings.brokers
    embedded = EmbeddedBroker(settings.broker_dir)
    if not embedded.is_running():
        raise RefusedError(
            "no broker: set AUREON_BROKERS to the address of yours, or start the embedded one with "
            f"`aureon broker --home {settings.home}` (`aureon run` starts it itself)"
        )
    return embedded.brokers


def config_of(settings: Settings) -> dict[str, Any]:
    """What every Kafka client of the cluster is made with.

    Raises:
        RefusedError: there is no broker.
    """
    return client_config(brokers_of(settings), settings.kafka_properties)


NO_FOLDER = FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError
"""What is raised where a folder cannot be made at its place."""


def cluster_key(path: Path) -> bytes:
    """Read the cluster's key, or make one; several processes may do so at once.

    Raises:
        RefusedError: the file holds something else.
    """
    make_once(path, f"{secrets.token_hex(32)}\n".encode())
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (ValueError, UnicodeDecodeError):
        key = b""
    if len(key) != 32:  # 256 bits
        raise RefusedError(f"{path}: expected a key of 64 hex digits; copy it from another cell of this cluster")
    return key


def fingerprint(key: bytes) -> str:
    """Tell keys apart without telling them."""
    return hashlib.blake2b(b"fingerprint", key=key, digest_size=8).hexdigest()


def belongs_to(folder: Path, cluster_id: str, what: str, variable: str) -> None:
    """Check that a folder is of this cluster; a folder without a word of it is taken.

    Raises:
        RefusedError: it is another cluster's.
    """
    path = folder / "cluster.json"
    try:
        make_once(path, msgspec.json.encode({"cluster_id": cluster_id}), ANYBODY)
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, str]).get("cluster_id")
    except NO_FOLDER as error:
        raise RefusedError(f"the {what} {folder} cannot be made: {error.strerror}; set {variable} to another") from None
    except UNREADABLE as error:
        raise RefusedError(
            f'{path}: {error}; is this {what} Aureon\'s? Where it is, put back {{"cluster_id":"{cluster_id}"}}'
        ) from None
    if known != cluster_id:
        raise RefusedError(
            f"the {what} {folder} belongs to the cluster {known}, but the broker to {cluster_id}: set AUREON_BROKERS "
            f"to the broker it was made with, or {variable} to another folder"
        )
