"""A dataset in which a verifier accepted every answer; what it did not accept is told, with the reason.

    questions ─► several models ─► verifier ─┬─► dataset.jsonl, dataset.parquet
                                   ▲         └─► not accepted in three rounds: a dead letter
                                   └─ again ─┘

    python -m flows.examples.verified_dataset --nodes nodes.toml

Each row has its provenance. Run again with more questions, it asks the new ones alone.
"""

import argparse
import sys
from pathlib import Path

from flows.batch import refine
from flows.commands.sql import print_table
from flows.comparing.equivalence import number
from flows.settings import read_settings
from flows.terminal import OK, ended, show
from one_lake.query import quoted
from schemas.task import PayloadView

ACCEPTED = """
SELECT topic, logical_id, payload ->> '$.prompt' AS question, answer, models, content_hash, decision_hash, provenance
FROM one SEMI JOIN asked USING (topic, logical_id) WHERE evidence = 'verifier' ORDER BY ALL
"""
NOT_ACCEPTED = """
SELECT logical_id, reason, dead_letters.detail, list(DISTINCT text) FILTER (status = 'ok') AS they_said
FROM dead_letters SEMI JOIN asked USING (topic, logical_id) LEFT JOIN answers USING (topic, logical_id)
GROUP BY ALL ORDER BY ALL
"""


def solves(payload: PayloadView, answer: str) -> bool:
    """Tell whether an answer solves the payload's `equation` a*x + b = c, by putting it in."""
    a, b, c = payload.fields["equation"]
    x = number(answer)
    return x is not None and a * x + b == c


def main() -> int:
    """Ask, keep what was accepted, and tell the rest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=Path, default=Path(__file__).with_name("equations.jsonl"))
    parser.add_argument("--nodes", help="the models, nodes.toml; without it the embedded solvers")
    parser.add_argument("--home", type=Path, default=Path(".aureon/verified_dataset"), help="where all of it goes")
    options = parser.parse_args()
    settings = read_settings(
        {
            "home": str(options.home),
            "nodes": options.nodes,
            "policy": "verifier",  # accepted by the verifier that a question names, or not at all
            "verifiers": "flows.examples.verified_dataset:solves",
            "max_depth": 0,  # no follow-up tasks
        }
    )
    with refine(settings, options.questions.read_bytes().splitlines()) as lake:
        for name in ("dataset.jsonl", "dataset.parquet"):
            path = options.home / name
            ((rows,),) = lake.execute(f"COPY ({ACCEPTED}) TO '{quoted(str(path))}'").fetchall()
            show(f"{rows} accepted answers in {path}")
        show("not accepted:")
        print_table(lake, NOT_ACCEPTED)
    return OK


if __name__ == "__main__":
    sys.exit(ended(main))
