"""`aureon supervise`: the supervision root in this process, with all that it needs around it."""

import argparse
from datetime import timedelta

from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main

from connectors.told_errors import step_log
from flows.commands.arguments import settings_of
from flows.engine import muffled_engine
from flows.root_parts import RootParts
from flows.root_status import RootStatus
from flows.running import ENGINE_LOG, Interrupts, broker_of, locked, recovery_folder
from flows.supervise import root_flow
from flows.telemetry import shown
from flows.terminal import OK, say

SNAPSHOT_EVERY = timedelta(seconds=5)


def main(options: argparse.Namespace) -> int:
    """Run the root until it is asked to stop."""
    settings = settings_of(options)
    parts = RootParts(settings)
    status = RootStatus(parts)
    with (
        Interrupts(parts.stopping) as interrupts,
        locked(parts.state_dir),
        shown(settings, status) as telemetry,
        broker_of(settings),
    ):
        try:
            brokers, lanes = parts.config["bootstrap.servers"], parts.topics.lanes
            say(
                f"aureon: supervision root; broker {brokers}, {lanes} lanes; lake {settings.lake_dir}. Ctrl-C stops it."
            )
            if telemetry.url:
                say(f"metrics at {telemetry.url}/metrics")
            step_log.disabled = True  # in one process the error comes back, and is told once
            recovery = RecoveryConfig(recovery_folder(parts.state_dir), timedelta(0))
            with muffled_engine(parts.state_dir / ENGINE_LOG), interrupts.graceful():
                cli_main(root_flow(parts), epoch_interval=SNAPSHOT_EVERY, recovery_config=recovery)
        finally:
            parts.close()
    say("stopped; the cells go on with what it ordered last")
    return OK
