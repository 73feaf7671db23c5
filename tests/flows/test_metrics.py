"""The list of metrics, and all that names them: the guide, the dashboard, the alerts."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.metrics import METRICS, Described
from tests.aureon_command import ROOT
from tests.flows.scraped import series_names
from tests.pages import guide

DEPLOY = ROOT / "flows" / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
SERIES = {name: metric for metric in METRICS.values() for name in series_names(metric)}
PROMTOOL = shutil.which("promtool")
OF_THE_PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
"""From the library."""
OF_PROMETHEUS = {"instance", "job"}
"""Labels that each series gets when it is scraped."""
WORDS = {
    *("sum", "min", "max", "count", "by", "on", "and", "or", "unless", "time", "rate", "increase", "delta", "deriv"),
    *("histogram_quantile", "count_over_time"),
}

TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<duration>offset\s\d+[smh]|\[(?:\d+[smh]|\$__rate_interval)(?::\d+[smh])?])|(?P<matchers>\{[^{}]*\})
    |(?P<labels>(?<=by\s)\([^()]*\)|(?<=on\s)\([^()]*\))|(?P<name>[a-z_][a-z0-9_]*)|(?P<number>\d+(?:\.\d+)?)
    |(?P<operator>[-+*/]|==|!=|>=|<=|>|<)|(?P<open>\()|(?P<close>\))|(?P<comma>,)""",
    re.VERBOSE,
)
MATCHER = re.compile(r'([a-z]+)(=|!=|=~|!~)"([^"]*)"')


def labels_of(metric: Described | None) -> set[str]:
    """Those that a series has."""
    return OF_PROMETHEUS | set(metric.labels if metric is not None else ()) | ({"le"} if metric is not None else set())


def check_query(query: str) -> set[str]:
    """Take a query apart, all of it; every word is a function, or a series with labels of its own.

    Returns:
        The labels that its result may have.
    """
    at, depth, used, grouped = 0, 0, [], set()
    while at < len(query):
        token = TOKEN.match(query, at)
        assert token is not None, f"{query}: at {query[at:]}"
        at = token.end()
        text = token.group()
        if token["open"] or token["close"]:
            depth += 1 if token["open"] else -1
            assert depth >= 0, query
        elif token["name"] and text not in WORDS:
            assert text in SERIES or text in OF_THE_PROCESS, f"{query}: there is no {text}"
            used.append(SERIES.get(text))
        elif token["matchers"]:
            for matcher in text[1:-1].split(","):
                found = MATCHER.fullmatch(matcher)
                assert found is not None, f"{query}: {matcher}"
                assert found[1] in labels_of(used[-1]), f"{query}: {found[1]}"
        elif token["labels"]:
            grouped |= {label.strip() for label in text[1:-1].split(",")}
    assert depth == 0, query
    assert used, query
    of_all = set.union(*(labels_of(metric) for metric in used))
    assert grouped <= of_all, query
    return grouped or of_all


def test_names_follow_the_conventions() -> None:
    """A counter is a total, and nothing else is; no label is as many as tasks are."""
    for metric in METRICS.values():
        assert re.fullmatch(r"aureon_[a-z_]+[a-z]", metric.name)
        assert metric.name.endswith("_total") is (metric.kind == "counter"), metric.name
        assert not {"task_id", "logical_id"} & set(metric.labels)
        assert metric.kind not in ("histogram", "summary") or metric.name.endswith("_seconds")


def test_the_guide_lists_every_metric() -> None:
    """With its labels and what it tells, and no other."""
    rows = re.findall(r"^\| `(aureon_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", guide("metrics"), re.MULTILINE)
    assert rows == [
        (metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.tells)
        for metric in METRICS.values()
    ]


def panels() -> Iterator[dict[str, Any]]:
    """Those of the dashboard that show something."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def test_every_panel_shows_what_there_is() -> None:
    """Its queries name series and labels that are told, its legends labels of what they show."""
    for panel in panels():
        for target in panel["targets"]:
            told = check_query(target["expr"])
            assert set(re.findall(r"\{\{(\w+)}}", target["legendFormat"])) <= told, panel["title"]


def test_the_dashboard_is_whole() -> None:
    """Ids are unique, panels do not overlap, every variable asks for a label that there is, every metric is shown."""
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = [
        (x, y)
        for grid in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(places)) == len(places)
    assert all(x < 24 for x, _ in places)
    variables = {variable["name"]: variable["query"] for variable in dashboard["templating"]["list"]}
    for name, query in variables.items():
        if name != "datasource":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
            assert found is not None
            assert found[2] in labels_of(SERIES[found[1]])
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    assert set(re.findall(r"\$(\w+)", shown)) - {"__rate_interval"} <= set(variables)
    assert {name for name, metric in METRICS.items() if not any(s in shown for s in series_names(metric))} == set()


def rules() -> list[dict[str, Any]]:
    """All alerts; a key that is there twice is refused by the parser."""
    groups = YAML(typ="safe").load(ALERTS)["groups"]
    assert all(set(group) == {"name", "rules"} for group in groups)
    return [rule for group in groups for rule in group["rules"]]


def test_every_alert_looks_at_what_there_is() -> None:
    """And says what to do about it."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert (
            {"alert", "expr", "labels", "annotations"} <= set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        )
        assert re.fullmatch(r"Aureon[A-Za-z]+", rule["alert"])
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["labels"] in ({"severity": "warning"}, {"severity": "critical"})
        assert set(rule["annotations"]) == {"summary", "description"}
        told = check_query(rule["expr"])
        text = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= told, rule["alert"]
        assert set(re.findall(r"\| (\w+)", text)) <= {"humanize", "humanizeDuration"}


@pytest.mark.parametrize(
    "query",
    [
        "rate(aureon_no_such_total[5m])",
        'aureon_root_cells{topic="x"}',
        "sum by (task_id) (aureon_lanes)",
        "sum(aureon_lanes",
        "aureon_lanes{instance=x}",
        "aureon_lanes[5 minutes]",
        "1",
    ],
)
def test_a_query_that_is_wrong_is_found(query: str) -> None:
    """Otherwise all of this would prove nothing."""
    with pytest.raises(AssertionError):
        check_query(query)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_prometheus_itself_takes_the_alerts(tmp_path: Path) -> None:
    """Where its tool is there."""
    configuration = ALERTS.with_name("prometheus.yml")
    for command in (["rules", str(ALERTS)], ["config", str(configuration)]):
        done = subprocess.run([str(PROMTOOL), "check", *command], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_all_alerts_are_loaded_by_the_configuration() -> None:
    """That which is handed out beside them."""
    configuration = YAML(typ="safe").load(ALERTS.with_name("prometheus.yml"))
    assert configuration["rule_files"] == [ALERTS.name]
