"""`aureon search`: records found by their words, or by what they mean."""

import argparse
from pathlib import Path

import msgspec

import one_lake
from flows.commands.arguments import settings_of
from flows.progress import bars
from flows.terminal import OK, printable, say, show
from one_lake.as_of import moment
from one_lake.search import SearchIndex, When


def main(options: argparse.Namespace) -> int:
    """Bring the index up to date, and ask it."""
    settings = settings_of(options)
    path = Path(options.index) if options.index else None
    with one_lake.connect(settings.lake_dir, settings.blobs_url) as lake, SearchIndex(settings.lake_dir, path) as index:
        with bars() as progress:
            index.update(lake, lambda done: progress("indexing", done, None))
        search = index.similar if options.similar else index.find
        hits = search(options.text, options.limit, options.topic, _when(settings.lake_dir, options.as_of))
    if options.json:
        show(msgspec.json.format(msgspec.json.encode(hits)).decode())
        return OK
    for hit in hits:
        show(f"{hit.topic} {hit.logical_id}  ({hit.score:.2f})")
        show(f"  {printable(hit.question)}\n  -> {printable(hit.answer)}")
    if not hits:
        say("nothing found")
    return OK


def _when(lake_dir: Path, as_of: str | None) -> When:
    """Which records count."""
    bounds = moment(lake_dir, as_of).bounds if as_of is not None else None
    with one_lake.connect(lake_dir, as_of=as_of) as then:
        rows = then.execute("SELECT cluster, lane, decision_offset FROM stored.superseded").fetchall()
    return When(bounds=bounds, superseded=rows)
