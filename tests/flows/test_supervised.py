"""Supervision in a cell: what is planted in answers is caught between Kafka and the lake."""

import json
import time
from pathlib import Path

import pytest

import one_lake
from connectors.topics import TASKS
from flows.learning import WRITE_EVERY_S
from tests.aureon_command import aureon
from tests.brokers import Broker
from tests.flows.refine_parts import MENDING, PLANTED
from tests.flows.test_refine import Task, cell_on, send

pytestmark = pytest.mark.embedded

NODES = "tests.flows.refine_parts:planting_nodes"
SCORES = ("nan", "inf", "-inf")


def tasks(*prompts: str, topic: str = "anything") -> str:
    """Lines for `aureon submit`."""
    return "".join(
        json.dumps({"topic": topic, "logical_id": f"{topic}-{p}", "payload": {"prompt": p}}) + "\n" for p in prompts
    )


def test_what_is_planted_reaches_no_record(own_broker: Broker, tmp_path: Path) -> None:
    """Insult, prejudice, instruction and a megabyte are dead or mended; scores that are none do no harm."""
    mended = [f"{name}, {MENDING}" for name in PLANTED]
    lines = tasks(*PLANTED, *mended, *SCORES, "plain")
    brokers = own_broker.brokers
    assert aureon("submit", "-", cwd=tmp_path, stdin=lines, AUREON_BROKERS=brokers).returncode == 0
    done = aureon("run", "--until-idle", "1", "--nodes", NODES, cwd=tmp_path, AUREON_BROKERS=brokers)
    assert done.returncode == 0, done.stderr
    with one_lake.connect(tmp_path / ".aureon/lake", str(tmp_path / ".aureon/blobs")) as lake:
        records = dict(lake.sql("SELECT logical_id, answer FROM one").fetchall())
        dead = dict(lake.sql("SELECT logical_id, reason FROM dead_letters").fetchall())
        rounds = dict(lake.sql("SELECT logical_id, count(*) FROM rounds GROUP BY ALL").fetchall())
        noted = lake.sql(
            "SELECT logical_id, json_extract_string(findings, '$[0].policy') FROM rounds WHERE round_index = 0"
        ).fetchall()
    assert records == {f"anything-{p}": "42" for p in (*mended, *SCORES, "plain")}
    assert dead == {f"anything-{p}": "rejected" for p in PLANTED}
    assert {p: rounds[f"anything-{p}"] for p in PLANTED} == dict.fromkeys(PLANTED, 3)
    assert {p: rounds[f"anything-{p}"] for p in mended} == dict.fromkeys(mended, 2)
    policies = {i.removeprefix("anything-"): (policy or "").partition("(")[0] for i, policy in noted}
    assert policies["plain"] == ""
    assert {policies[name] for name in SCORES} == {"score_sanity"}
    assert [policies[name] for name in ("insult", "bias", "injection")] == ["insults", "bias", "injection"]
    assert policies["megabyte"] == "runaway_length"


def test_a_topic_is_stopped_by_the_file_and_stays_so_after_a_restart(own_broker: Broker, tmp_path: Path) -> None:
    """Its tasks are dead before a model is asked; the log tells."""
    (tmp_path / "supervision.toml").write_text(
        '[[policy]]\nuse = "insults"\n\n[[policy]]\nuse = "topic_health"\nlast = 1\npause_s = 600\n'
    )
    brokers = own_broker.brokers
    command = ("run", "--until-idle", "1", "--nodes", NODES, "--supervision", "supervision.toml")
    for lines in (tasks("insult"), tasks("plain") + tasks("plain", topic="other")):
        assert aureon("submit", "-", cwd=tmp_path, stdin=lines, AUREON_BROKERS=brokers).returncode == 0
        done = aureon(*command, cwd=tmp_path, AUREON_BROKERS=brokers)
        assert done.returncode == 0, done.stderr
        if "insult" in lines:
            assert "the topic 'anything' is stopped until" in done.stderr
    with one_lake.connect(tmp_path / ".aureon/lake") as lake:
        dead = lake.sql("SELECT logical_id, reason FROM dead_letters ORDER BY ALL").fetchall()
        spent = lake.sql("SELECT calls FROM rounds WHERE reason = 'topic_stopped'").fetchall()
        assert lake.sql("SELECT logical_id FROM one").fetchall() == [("other-plain",)]
    assert dead == [("anything-insult", "rejected"), ("anything-plain", "topic_stopped")]
    assert spent == [(0,)]


def test_a_topic_that_was_stopped_last_of_all_stays_so_after_a_kill(own_broker: Broker, tmp_path: Path) -> None:
    """A cell that goes on from its snapshot does not read again who stopped it."""
    file = tmp_path / "supervision.toml"
    file.write_text('[[policy]]\nuse = "insults"\n\n[[policy]]\nuse = "topic_health"\nlast = 1\npause_s = 600\n')

    def task(topic: str, prompt: str) -> Task:
        return {"topic": topic, "logical_id": f"{topic}-{prompt}", "payload": {"prompt": prompt}}

    with cell_on(own_broker, tmp_path, "planting_nodes", supervision=file) as run:
        run.cell.start("w1")
        send(own_broker, TASKS, [task("other", "plain")])
        run.wait_for_ends([("other", "other-plain")])
        time.sleep(WRITE_EVERY_S)  # what is learned next is written at once; where nothing was, the lake would teach
        for last in (task("other", "plain too"), task("anything", "insult")):
            send(own_broker, TASKS, [last])
            run.wait_for_ends([(last["topic"], last["logical_id"])])
        time.sleep(5.0)  # for snapshots
        run.cell.kill()
        run.cell.start("w1")
        send(own_broker, TASKS, [task("anything", "plain")])
        run.wait_for_ends([("anything", "anything-plain")])
        reasons = {d.logical_id: d.reason for _, d in run.follower.winners.values()}
        assert reasons["anything-plain"] == "topic_stopped"


@pytest.mark.parametrize(
    "text,told", [("", "names no policy"), ("[[policy]]\nuse = 'biass'\n", "'biass' is no built-in")]
)
def test_a_wrong_file_ends_the_start(own_broker: Broker, tmp_path: Path, text: str, told: str) -> None:
    """Not the first task."""
    (tmp_path / "supervision.toml").write_text(text)
    done = aureon("run", "--supervision", "supervision.toml", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers)
    assert done.returncode == 2
    assert f"supervision.toml: {told}" in done.stderr.replace("policy 1 (biass): use: ", "")
