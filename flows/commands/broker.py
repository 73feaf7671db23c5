"""`aureon broker`: the embedded broker in the foreground."""

import argparse
import sys

from connectors.embedded import EmbeddedBroker
from flows.commands.arguments import settings_of
from flows.terminal import OK, show

LIMITS = """\
It is for development, demos and tests, and listens on this machine only. It keeps its messages in memory, 1.5 to
3 times the size of the backlog, so keep that below 100 MB; it saves them when it is stopped and every few seconds,
and loses the last seconds (about 3) when it is killed. For what must not be lost, set AUREON_BROKERS to a Kafka of
yours."""


def main(options: argparse.Namespace) -> int:
    """Run the broker until Ctrl-C or SIGTERM."""
    folder = settings_of(options).broker_dir

    def ready(address: str) -> None:
        show(f"Kafka at {address}, its data in {folder}. Ctrl-C stops it.\n\n{LIMITS}")
        sys.stdout.flush()

    EmbeddedBroker(folder).serve(ready)
    show(f"stopped; the messages are saved in {folder}")
    return OK
