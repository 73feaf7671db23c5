"""The audit: a deeper suite of Great Expectations over the whole lake, with its Data Docs page.

    all tables ─► DuckDB ─► profiles: by topic, and of the lake ─► Great Expectations ─► findings, and pages
    the newest records, row by row ──────────────────────────────┘

Every row is looked at, where it is: what comes into memory is a profile of each topic, and the newest records. What
models wrote is untrusted text: it comes escaped and cut into whatever makes the pages.
"""

import html
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["GX_ANALYTICS_ENABLED"] = "false"

import duckdb
import great_expectations as gx
from great_expectations.checkpoint.actions import UpdateDataDocsAction
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from msgspec import Struct

import one_lake
from one_lake.expectations import Configuration, suite
from schemas.one import QUALITY_GATE

NEWEST = 20_000
"""Records that are looked at one by one."""
MAX_TOPICS = 1_000
"""Profiles of topics, of those with the most records; a page has a row a topic."""
MAX_CHARACTERS = 200
_SITE = "local_site"

_NEWEST = (
    "SELECT * REPLACE (left(payload, 200) AS payload) FROM stored.records ORDER BY converged_at DESC LIMIT $newest"
)

# Of each topic, over all its records: what would be out of bounds, and how it does.
_TOPICS = """
SELECT topic,
    count(*) AS records, count(DISTINCT logical_id) AS ids,
    min(least(score, confidence, agreement)) AS least_share,
    max(greatest(score, confidence, agreement)) AS greatest_share,
    count(*) FILTER (answer IS NULL) AS without_answer,
    count(*) FILTER (converged_at < started_at) AS ended_before_they_began,
    count(*) FILTER (NOT regexp_full_match(content_hash, '[0-9a-f]{64}')) AS without_content_hash,
    count(*) FILTER (row_hash IS NULL) AS without_row_hash,
    count(*) FILTER (NOT list_contains(labels, topic)) AS without_their_label,
    count(*) FILTER (calls < 1 AND depth = 0) AS without_a_call,
    avg(forced::INT) AS forced_share,
    avg((evidence IN ('verifier', 'cross-model'))::INT) AS confirmed_share,
    avg(confidence) AS mean_confidence,
    count(DISTINCT policy) AS policies
FROM stored.records GROUP BY topic ORDER BY records DESC LIMIT $topics
"""

_LAKE = """
SELECT
    (SELECT count(*) FROM stored.rounds WHERE kind = 'converged')
        - (SELECT count(*) FROM stored.records o SEMI JOIN stored.rounds r
            ON r.cluster IS NOT DISTINCT FROM o.cluster AND r.lane = o.lane AND r.decision_offset = o.decision_offset)
        - (SELECT count(*) FROM stored.superseded)
        - (SELECT count(*) FROM stored.dead_letters d SEMI JOIN stored.rounds r
            ON r.cluster IS NOT DISTINCT FROM d.cluster AND r.lane = d.lane AND r.decision_offset = d.decision_offset
            WHERE d.reason = $gate) AS converged_without_record,
    (SELECT count(*) FROM stored.records) - (SELECT count(DISTINCT (topic, logical_id)) FROM stored.records)
        AS ids_twice,
    (SELECT count(*) FROM stored.records WHERE row_hash IS NULL) AS records_without_hash,
    (SELECT count(*) FROM stored.branches b ANTI JOIN stored.rounds r
        ON r.topic = b.parent_topic AND r.logical_id = b.parent_id) AS branches_without_parent,
    (SELECT count(*) FROM stored.dead_letters WHERE reason = $gate)
        / greatest(1, (SELECT count(*) FROM stored.records)) AS refused_share,
    (SELECT count(*) FROM stored.dead_letters) / greatest(1, (SELECT count(*) FROM stored.rounds WHERE introduces))
        AS dead_share,
    (SELECT coalesce(avg((len(warnings) > 0)::INT), 0) FROM stored.rounds) AS warned_share
"""

_NOTHING = (
    "ended_before_they_began",
    "without_answer",
    "without_content_hash",
    "without_their_label",
    "without_a_call",
)


def _between(column: str, least: float | None, most: float | None) -> Configuration:
    kwargs = {"column": column, "min_value": least, "max_value": most}
    return {"type": "expect_column_values_to_be_between", "kwargs": kwargs}


SUITES: Mapping[str, Sequence[Configuration]] = {
    "topics": (
        {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "topic"}},
        {
            "type": "expect_column_pair_values_to_be_equal",
            "kwargs": {"column_A": "records", "column_B": "ids"},
        },
        _between("least_share", 0.0, None),
        _between("greatest_share", None, 1.0),
        *(_between(column, 0, 0) for column in _NOTHING),
        _between("forced_share", None, 0.5),
        _between("confirmed_share", 0.5, None),
        _between("mean_confidence", 0.5, None),
    ),
    "lake": (
        _between("converged_without_record", 0, 0),
        _between("ids_twice", 0, 0),
        _between("branches_without_parent", 0, 0),
        _between("refused_share", None, 0.01),
        _between("dead_share", None, 0.2),
        _between("warned_share", None, 0.2),
    ),
}
"""What is expected of the profiles; of the newest records, what the quality gate expects."""


class Check(Struct, frozen=True):
    """One expectation, and whether it was met."""

    suite: str
    expectation: str
    is_met: bool
    found: str
    """What was found instead."""


class Audit(Struct, kw_only=True):
    """What was found."""

    records: int
    topics: int
    checks: list[Check]
    page: str
    """The Data Docs."""

    @property
    def is_met(self) -> bool:
        """All of it."""
        return all(check.is_met for check in self.checks)


def audit(
    lake_dir: Path, blobs: str, folder: Path, as_of: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> Audit:
    """Audit a lake, and write the pages.

    Args:
        lake_dir: the lake.
        blobs: the blob store.
        folder: where the pages go.
        as_of: the lake as it was.
        progress: told what is done.

    Raises:
        RefusedError: there is no lake.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # which tells its steps
    with one_lake.connect(lake_dir, blobs, as_of) as lake:
        progress("profiling")
        ((records, topics),) = lake.execute("SELECT count(*), count(DISTINCT topic) FROM stored.records").fetchall()
        frames = {
            "records": _frame(lake, _NEWEST, {"newest": NEWEST}),
            "topics": _frame(lake, _TOPICS, {"topics": MAX_TOPICS}),
            "lake": _frame(lake, _LAKE, {"gate": QUALITY_GATE}),
        }
    progress("judging")
    checks, page = _judge({name: frame for name, frame in frames.items() if len(frame)}, folder)
    return Audit(records=records, topics=topics, checks=checks, page=page)


def _frame(lake: duckdb.DuckDBPyConnection, query: str, values: Mapping[str, Any]) -> Any:
    """Run a query, and make what models and users wrote harmless in a page."""
    frame = lake.sql(query, params=dict(values)).to_arrow_table().to_pandas()
    for name in frame.columns:
        if frame[name].dtype == object or str(frame[name].dtype).startswith(("str", "string")):
            frame[name] = frame[name].map(_harmless)
    return frame


def _harmless(value: Any) -> Any:
    return html.escape(value[:MAX_CHARACTERS]) if isinstance(value, str) else value


def _judge(frames: Mapping[str, Any], folder: Path) -> tuple[list[Check], str]:
    """Run the suites, and write the pages; returns what was found, and the first page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}  # type: ignore[assignment]
        for site in list(context.get_docs_sites_urls()):
            context.delete_data_docs_site(str(site["site_name"]))
        context.add_data_docs_site(
            site_name=_SITE,
            site_config={
                "class_name": "SiteBuilder",
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "store_backend": {
                    "class_name": "TupleFilesystemStoreBackend",
                    "base_directory": str(folder.absolute()),
                },
            },
        )
        source = context.data_sources.add_pandas("lake")
        definitions, parameters = [], {}
        for name, frame in frames.items():
            expected = gx.ExpectationSuite(name=name)
            for configuration in SUITES.get(name) or suite():
                expected.add_expectation(ExpectationConfiguration(**configuration).to_domain_obj())
            batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
            definitions.append(
                context.validation_definitions.add(
                    gx.ValidationDefinition(name=name, data=batch, suite=context.suites.add(expected))
                )
            )
            parameters[name] = frame
        checks = []
        for definition in definitions:
            checkpoint = context.checkpoints.add(
                gx.Checkpoint(
                    name=definition.name,
                    validation_definitions=[definition],
                    actions=[UpdateDataDocsAction(name="docs", site_names=[_SITE])],
                    result_format="SUMMARY",
                )
            )
            ran = checkpoint.run(batch_parameters={"dataframe": parameters[definition.name]})
            for result in ran.run_results.values():
                checks += [_check(definition.name, found) for found in result.results]
        urls = context.get_docs_sites_urls(site_name=_SITE)
    return checks, str(urls[0]["site_url"]).removeprefix("file://")


def _check(name: str, found: Any) -> Check:
    told = found.expectation_config
    kwargs = {k: v for k, v in told.kwargs.items() if k != "batch_id" and v is not None}
    expectation = f"{told.type}({', '.join(f'{k}={v!r}' for k, v in kwargs.items())})"
    result = found.result or {}
    if found.success:
        return Check(name, expectation, is_met=True, found="")
    unexpected = result.get("partial_unexpected_list") or result.get("observed_value")
    return Check(
        name, expectation, is_met=False, found=f"{result.get('unexpected_count', '')} {unexpected}"[:300].strip()
    )
