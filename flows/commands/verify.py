"""`aureon verify`: whether the lake is what was written to it."""

import argparse
import re
from pathlib import Path

import msgspec

from connectors.heads import published_heads
from flows.cluster import config_of
from flows.commands.arguments import settings_of
from flows.figures import reach
from flows.progress import bars
from flows.settings import Settings
from flows.terminal import FAILED, OK, show
from one_lake.verify import FAULTS, Report, verify
from schemas.errors import UNREADABLE, RefusedError
from schemas.head import Head

KAFKA = "kafka"


def main(options: argparse.Namespace) -> int:
    """Verify, and tell the first thing of each kind that is wrong."""
    settings = settings_of(options)
    heads = _heads(options.head, settings)
    with bars() as progress:
        report = verify(
            settings.lake_dir,
            heads=heads,
            keys=options.key or (),
            blobs=settings.blobs_url if options.check_blobs else None,
            as_of=options.as_of,
            progress=progress,
        )
    if options.json:
        show(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        _tell(report, settings)
    return OK if report.is_sound else FAILED


def _heads(said: str | None, settings: Settings) -> list[Head | str]:
    """What the lake has to hold: from Kafka, from a file, or the hash itself."""
    if said is None:
        return []
    if said == KAFKA:
        config = config_of(settings)
        reach(config)
        heads = published_heads(config)
        if not heads:
            raise RefusedError("no head of a lake is on Kafka yet: a cell tells it with each commit")
        return list(heads)
    if re.fullmatch(r"[0-9a-f]{64}", said):
        return [said]
    try:
        told = msgspec.json.decode(Path(said).read_bytes())
    except FileNotFoundError:
        raise RefusedError(
            f"--head {said}: expected nothing (then Kafka tells), a file, or a hash of 64 digits"
        ) from None
    except UNREADABLE as error:
        raise RefusedError(f"{said}: no head of a lake: {error}") from None
    try:
        return [msgspec.convert(told.get("head", told) if isinstance(told, dict) else told, Head)]
    except msgspec.ValidationError as error:
        raise RefusedError(f"{said}: no head of a lake: {error}; `aureon verify --json` prints one") from None


def _tell(report: Report, settings: Settings) -> None:
    rows = ", ".join(f"{count:,} {table}" for table, count in report.tables.items())
    show(f"lake {settings.lake_dir}: {rows}; {report.files:,} files, {report.seals:,} signed commits")
    if report.head is not None:
        show(f"head: version {report.head.version} of rounds, {report.head.hash}, signed by key {report.head.key}")
    if report.heads:
        show(f"heads that were told and are in it: {report.heads}")
    if report.not_sealed:
        show(f"{report.not_sealed:,} rows are from before commits were signed: nothing vouches for them")
    if report.blobs_skipped:
        show(f"{report.blobs_skipped:,} records have their content in the blob store, not looked at: --check-blobs")
    for fault, finding in report.first.items():
        times = f" ({report.faults[fault]:,} times)" if report.faults[fault] > 1 else ""
        detail = f": {finding.detail}" if finding.detail else ""
        show(f"{fault}: {FAULTS[fault]}{times}; first {finding.where}{detail}")
    faults = sum(report.faults.values())
    if faults:
        show(f"NOT SOUND: {faults:,} {'fault' if faults == 1 else 'faults'}")
    elif report.not_sealed:
        rows = "row" if report.not_sealed == 1 else "rows"
        show(f"sound, but for {report.not_sealed:,} {rows} from before commits were signed")
    else:
        show("sound: nothing is lost, doubled or altered")
