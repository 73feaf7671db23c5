"""`aureon cancel`: end a task with all its rounds and branches, waiting, under way, or not yet sent."""

import argparse
import time

from connectors.cancels import Cancel, send_cancel
from connectors.topics import ensure_topics
from flows.cluster import config_of
from flows.commands.arguments import settings_of
from flows.figures import reach
from flows.terminal import OK, show
from schemas.errors import RefusedError
from schemas.ids import logical_id_of


def main(options: argparse.Namespace) -> int:
    """Write the order, confirmed by the broker."""
    settings = settings_of(options)
    topic, logical_id = options.topic, options.logical_id
    if not topic or not logical_id:
        raise RefusedError("expected a topic and a logical id, and one of them is empty")
    if named := logical_id_of(logical_id):
        raise RefusedError(f"{logical_id!r} is a task id: leave out its round, {named!r}")
    config = config_of(settings)
    reach(config)
    ensure_topics(config, settings.lanes, settings.replication)
    send_cancel(config, Cancel(topic, logical_id, round(time.time(), 3)))
    show(
        f"cancelled: {topic} {logical_id}, under way, waiting or not yet sent, with all that comes of it; what has "
        "converged already stays"
    )
    return OK
