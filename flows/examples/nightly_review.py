"""Every night: the records since yesterday decided again by a stricter policy, and those that would fall asked again.

    rounds since yesterday ─► re-decide, no model is asked ─► what would fall ─► re-ask ─► what stands after all

    python -m flows.examples.nightly_review --home .aureon --nodes nodes.toml --score-threshold 0.95

The lake's tables stay what they are; both runs are kept beside them. Where there is no lake yet, one is made first.
"""

import argparse
import datetime as dt
import sys
from pathlib import Path

import one_lake
from flows.batch import refine
from flows.commands.sql import print_table
from flows.replay import RE_ASK, RE_DECIDE, replay
from flows.settings import read_settings
from flows.terminal import OK, ended, show
from one_lake.runs import Selection

CHANGES = """
SELECT r.topic, r.kind AS was, a.kind AS would_be, count(*) AS rounds, round(avg(r.confidence), 3) AS confidence
FROM run('{name}') a JOIN rounds r USING (cluster, lane, decision_offset) GROUP BY ALL ORDER BY ALL
"""
FELL = """
SELECT r.topic, r.logical_id FROM run('{name}') a JOIN rounds r USING (cluster, lane, decision_offset)
WHERE r.kind = 'converged' AND (a.kind <> 'converged' OR a.forced > r.forced)
"""
AFTERWARDS = """
SELECT one.topic, one.logical_id, one.answer AS was, one.confidence AS confidence_was,
    CASE WHEN last.kind <> 'converged' OR last.forced THEN 'in doubt' WHEN last.answer = was THEN 'stands'
        ELSE 'another answer' END AS now, last.answer, last.confidence
FROM (SELECT arg_max(a, (round_index, attempt)) AS last FROM run('{name}') a GROUP BY topic, logical_id)
JOIN one ON one.topic = last.topic AND one.logical_id = last.logical_id ORDER BY ALL
"""


def main() -> int:
    """Decide again, tell what would change, ask those again that would fall, and tell what comes of it."""
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".aureon/nightly_review"), help="where the lake is")
    parser.add_argument("--nodes", help="the models that are asked again, nodes.toml")
    parser.add_argument("--score-threshold", default=0.998, help="the stricter policy")
    parser.add_argument("--since", default=yesterday.isoformat(), help="from when on they were decided (UTC)")
    options = parser.parse_args()
    told = {"home": str(options.home), "nodes": options.nodes}
    strict = read_settings({**told, "score_threshold": options.score_threshold})
    if not strict.lake_dir.exists():
        questions = Path(__file__).with_name("sums.jsonl").read_bytes().splitlines()
        refine(read_settings({**told, "score_threshold": 0.7, "max_depth": 0}), questions).close()
    night = f"night-{options.since}-{options.score_threshold}"
    replay(strict, night, RE_DECIDE, Selection(since=options.since))
    with one_lake.connect(strict.lake_dir, strict.blobs_url) as lake:
        print_table(lake, CHANGES.format(name=night))
    asked = replay(strict, f"{night}-asked", RE_ASK, Selection(query=FELL.format(name=night)))
    show(f"{asked.tasks} would fall, and were asked again:")
    with one_lake.connect(strict.lake_dir, strict.blobs_url) as lake:
        print_table(lake, AFTERWARDS.format(name=f"{night}-asked"))
    return OK


if __name__ == "__main__":
    sys.exit(ended(main))
