"""Cheap models first, dear ones where those do not agree, and no more in a day than it may cost.

    questions ─► two cheap models ─► they agree ──────────────────────────┬─► ONE
                       │                                                  │
                       ├─► they do not ─► the next dearer one, and so on ─┘
                       └─► the day is spent ─► forced: the best there is; or, with no answer, left for tomorrow

    python -m flows.examples.daily_cascade --nodes nodes.toml --day "cost=2.50"

The first fifteen questions of a topic go to all models: so it is learned how well each of them does.
"""

import argparse
import shlex
import sys
from pathlib import Path

from flows.batch import refine
from flows.commands.sql import print_table
from flows.settings import read_settings
from flows.terminal import OK, command_name, ended, show

HERE = Path(__file__).parent
BECAME = """
SELECT if(last.kind = 'converged' AND last.forced, 'forced', last.kind) AS became,
    coalesce(nullif(last.detail, ''), last.reason) AS why,
    count(*) AS tasks, sum(calls)::BIGINT AS calls, sum(cost) AS cost
FROM (
    SELECT arg_max(r, (generation, round_index, attempt)) AS last, sum(calls) AS calls, sum(cost) AS cost
    FROM rounds r SEMI JOIN asked USING (topic, logical_id) GROUP BY topic, logical_id
) GROUP BY ALL ORDER BY ALL
"""
WHO = "SELECT node, model, asked, answered, gave_the_answer, tokens, cost FROM nodes ORDER BY ALL"
SPENT = "SELECT day::DATE AS day, records, dead_letters, calls, tokens, cost, cost_a_record FROM costs ORDER BY ALL"
LEFT = (
    "SELECT topic, logical_id FROM dead_letters ANTI JOIN one USING (topic, logical_id) WHERE reason = 'budget_spent'"
)
TOMORROW = """{left} are left. Tomorrow:
  {aureon} replay redrive --home {home} --select "{query}"
  {aureon} run --home {home} --nodes {nodes} --routing cascade --cascade-first 2 --day-budget {day} --until-idle 5"""


def main() -> int:
    """Answer what the day allows, and tell what became of all, who was asked, and what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=Path, default=HERE / "sums.jsonl")
    parser.add_argument("--nodes", type=Path, default=HERE / "solvers.toml", help="the models with their prices")
    parser.add_argument("--day", default="calls=100", help="calls=N;tokens=N;cost=X")
    parser.add_argument("--home", type=Path, default=Path(".aureon/daily_cascade"), help="where all of it goes")
    options = parser.parse_args()
    settings = read_settings(
        {
            "home": str(options.home),
            "nodes": str(options.nodes),
            "routing": "cascade",
            "cascade_first": 2,
            "day_budget": options.day,
            "lanes": 1,  # each lane has its share of the day
            "max_depth": 0,  # no follow-up tasks
        }
    )
    with refine(settings, options.questions.read_bytes().splitlines()) as lake:
        for query in (BECAME, WHO, SPENT):
            print_table(lake, query)
        left = len(lake.execute(LEFT).fetchall())
    if left:
        told = {name: shlex.quote(str(value)) for name, value in vars(options).items()}
        show(TOMORROW.format(left=left, aureon=command_name(), query=LEFT, **told))
    return OK


if __name__ == "__main__":
    sys.exit(ended(main))
