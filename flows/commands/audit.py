"""`aureon audit`: what Great Expectations finds in the whole lake, and its pages."""

import argparse
from pathlib import Path

import msgspec

from flows.commands.arguments import settings_of
from flows.terminal import FAILED, OK, say, show
from one_lake import tables


def main(options: argparse.Namespace) -> int:
    """Audit, and tell what is not as expected."""
    settings = settings_of(options)
    if not tables.is_lake(settings.lake_dir):
        raise tables.no_lake(settings.lake_dir)
    from one_lake.audit import audit  # noqa: PLC0415 - Great Expectations takes seconds; a refusal should not

    folder = Path(options.docs) if options.docs else Path(settings.home) / "audit"
    found = audit(
        settings.lake_dir,
        settings.blobs_url,
        folder,
        options.as_of,
        (lambda what: say(f"aureon: {what}")) if options.verbose else (lambda _: None),
    )
    if options.json:
        show(msgspec.json.encode(found).decode())
        return OK if found.is_met else FAILED
    met = sum(check.is_met for check in found.checks)
    show(f"{found.records:,} records of {found.topics:,} topics: {met} of {len(found.checks)} expectations are met")
    for check in found.checks:
        if not check.is_met:
            show(f"  {check.suite}: {check.expectation}\n    found: {check.found}")
    show(f"pages: {folder / 'index.html'}")
    return OK if found.is_met else FAILED
