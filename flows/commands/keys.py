"""`aureon keys`: the keys that commits to the lake are signed with."""

import argparse
import datetime as dt
from typing import Any

import msgspec

from flows.commands.arguments import settings_of
from flows.terminal import OK, show
from one_lake import tables
from one_lake.keys import FILE_NAME, public_keys, rotate, signing_key
from schemas.errors import RefusedError


def main(options: argparse.Namespace) -> int:
    """List them, or replace that of this state folder."""
    settings = settings_of(options)
    if not tables.is_lake(settings.lake_dir):
        raise tables.no_lake(settings.lake_dir)
    own_path = settings.state_dir / FILE_NAME
    if options.action == "rotate":
        if not own_path.exists():
            raise RefusedError(f"{own_path}: no key to follow on; a cell makes its first one when it starts")
        old, new = rotate(settings.lake_dir, settings.state_dir)
        show(f"{new.name} follows on {old.name}; a cell on {settings.state_dir} signs with it from its next start")
        return OK
    own = signing_key(settings.state_dir).name if own_path.exists() else ""
    listed: list[dict[str, Any]] = [
        {
            "name": key.name,
            "key": key.key,
            "since": dt.datetime.fromtimestamp(key.created_at, dt.UTC).isoformat(timespec="seconds"),
            "follows": key.follows or None,
            "own": key.name == own,
        }
        for key in sorted(public_keys(settings.lake_dir).values(), key=lambda key: key.created_at)
    ]
    if options.json:
        show(msgspec.json.format(msgspec.json.encode(listed)).decode())
        return OK
    for key in listed:
        follows = f", follows on {key['follows']}" if key["follows"] else ""
        mine = f", the one of {settings.state_dir}" if key["own"] else ""
        show(f"{key['name']}  since {key['since']}{follows}{mine}")
    return OK
