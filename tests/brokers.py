"""The brokers that tests run on: the embedded one by default, Apache Kafka where AUREON_TEST_KAFKA=apache."""

import os
import signal
import time
from pathlib import Path
from typing import Protocol

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from connectors.embedded import EmbeddedBroker
from connectors.kafka import admin_client, client_config
from tests.apache_kafka import ApacheKafka, stand_still


class Broker(Protocol):
    """What a test may do with its broker. It keeps its port and, stopped in order, its data."""

    name: str
    survives_kill: bool
    """Whether it keeps what it acknowledged when it is killed."""

    @property
    def brokers(self) -> str:
        """The address, as clients want it."""

    def start(self) -> str:
        """Start it if it does not run."""

    def stop(self) -> None:
        """Stop it in order, and wait."""

    def kill(self) -> None:
        """Stop it with SIGKILL."""

    def restart(self) -> None:
        """Stop it in order and start it again."""

    def freeze(self) -> None:
        """Have it answer nothing any more while its connections stay, as a machine that lost its power does."""

    def thaw(self) -> None:
        """Let it go on."""


class Embedded(EmbeddedBroker):
    """The embedded broker, which a test may also kill."""

    name = "embedded"
    survives_kill = False

    def kill(self) -> None:
        """Stop it with SIGKILL: its last seconds are lost."""
        os.kill(self._pid(), signal.SIGKILL)
        while self.is_running():
            time.sleep(0.005)
        self.stop()

    def restart(self) -> None:
        """Stop it in order and start it again."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Have it answer nothing any more while its connections stay, as a machine that lost its power does."""
        stand_still(self._pid())

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._pid(), signal.SIGCONT)

    def _pid(self) -> int:
        return int(msgspec.json.decode((self.folder / "broker.json").read_bytes())["pid"])


def new_broker(folder: Path) -> Broker:
    """Make the broker that this run of the tests is for, in an empty folder; it is not started yet."""
    kind = os.environ.get("AUREON_TEST_KAFKA", "embedded")
    if kind == "apache":
        return ApacheKafka(folder)
    if kind == "embedded":
        return Embedded(folder)
    raise ValueError(f"AUREON_TEST_KAFKA={kind!r}: expected `embedded` or `apache`")


def empty(broker: Broker, limit_s: float = 30.0) -> None:
    """Delete all topics and consumer groups of a running broker, and wait until they are gone."""
    client = admin_client(client_config(broker.brokers))
    deadline = time.monotonic() + limit_s
    _delete_groups(client, deadline)
    while topics := [t for t in client.list_topics(timeout=10).topics if not t.startswith("__")]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{broker.name} does not delete {topics}")
        for future in client.delete_topics(topics, operation_timeout=10).values():
            try:
                future.result()
            except KafkaException as error:
                # On its way out already.
                if error.args[0].name() != "UNKNOWN_TOPIC_OR_PART":
                    raise
        time.sleep(0.02)


def _delete_groups(client: AdminClient, deadline: float) -> None:
    groups = [g.group_id for g in client.list_consumer_groups().result().valid]
    while groups:
        again = []
        for group, future in client.delete_consumer_groups(groups).items():
            try:
                future.result()
            except KafkaException as error:
                # It has just started, and has not read its groups.
                if error.args[0].name() == "NOT_COORDINATOR" and time.monotonic() < deadline:
                    again.append(group)
                # One of a user's program that a test has killed, still waited for; nothing of Aureon's is in it.
                elif error.args[0].name() != "NON_EMPTY_GROUP":
                    raise
        groups = again
