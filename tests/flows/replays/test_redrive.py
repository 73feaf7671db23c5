"""Dead letters sent again: the next generation of their id, once, and of nothing else."""

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

import one_lake
from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config
from connectors.topics import TASKS
from flows.cluster import cluster_key
from flows.commands import replay
from flows.lane import Sealer
from flows.replays.redrive import Redriving, _Dead, _next_life
from flows.replays.report import RedriveReport
from flows.settings import Settings
from flows.steps.intake import Reading, classify, seal_redrive
from one_lake.verify import verify
from schemas.ids import home_lane
from schemas.task import Ancestor, Origin, Redrive, TaskDescriptor, TaskHead, encode
from tests.aureon_command import aureon
from tests.brokers import Broker
from tests.flows.replays.past import NODES
from tests.one_lake.lake_data import decisions, lake_writer
from tests.openai_server import OpenAIServer, Question, error

pytestmark = pytest.mark.embedded

SEALER = Sealer(b"k" * 32)
READING = Reading(0, 1, SEALER, 1 << 20, "tasks.retry", 1.0)


def task(**changes: Any) -> TaskDescriptor:
    """A task of the next generation."""
    told: dict[str, Any] = {
        "topic": "math",
        "logical_id": "x",
        "task_id": "x:r0",
        "generation": 1,
        "payload": msgspec.Raw(b'{"prompt":"how much?"}'),
    }
    return TaskDescriptor(**told | changes)


def verdict(sent: TaskDescriptor, reading: Reading = READING) -> str | None:
    """What intake makes of it."""
    return classify(reading, TASKS, 7, encode(sent), 0.0).verdict


def test_only_the_cluster_starts_another_generation() -> None:
    """With its seal over all of the message; whatever is changed in it, it is no task."""
    sealed = seal_redrive(SEALER, task(), 0, 12)
    assert verdict(sealed) is None
    assert verdict(seal_redrive(SEALER, task(logical_id="x:branch-0", task_id="x:branch-0:r0"), 0, 12)) is None
    replace = msgspec.structs.replace
    forged = [
        task(),
        seal_redrive(Sealer(b"other" * 6), task(), 0, 12),
        replace(sealed, generation=2),
        replace(sealed, logical_id="y", task_id="y:r0"),
        replace(sealed, topic="code"),
        replace(sealed, payload=msgspec.Raw(b'{"prompt":"how much more?"}')),
        replace(sealed, metadata={"a": "b"}),
        replace(sealed, redrive=Redrive(0, 13, sealed.redrive.seal if sealed.redrive else "")),
        replace(sealed, redrive=Redrive(0, 12, "ä")),
        replace(sealed, redrive=Redrive(0, 12, "")),
        seal_redrive(SEALER, task(generation=0), 0, 12),
        seal_redrive(SEALER, task(round_index=1, task_id="x:r1"), 0, 12),
    ]
    assert [verdict(each) for each in forged] == ["bad_input"] * len(forged)


class Server:
    """A model that fails, until it does not."""

    def __init__(self) -> None:
        self.fails = True

    def fault_of(self, question: Question) -> Any:
        """Fail where the question says so."""
        asked = json.dumps(question)
        return error(500) if ("for ever" in asked or (self.fails and "at first" in asked)) else None


def test_what_has_died_lives_again_and_ends_once(own_broker: Broker, tmp_path: Path) -> None:
    """Sent twice, and forged besides: one record an id, with its second generation; the rest is left, and says why."""
    model = Server()
    with OpenAIServer(models=("a", "b", "c")) as server:
        server.fault_of = model.fault_of
        (tmp_path / "nodes.toml").write_text(NODES.format(url=server.url))
        settings: Any = {
            "AUREON_BROKERS": own_broker.brokers,
            "AUREON_HOME": str(tmp_path),
            "AUREON_NODES": str(tmp_path / "nodes.toml"),
            "AUREON_MAX_ATTEMPTS": "1",
            "AUREON_CALL_TRIES": "1",
            "AUREON_LANES": "2",
        }

        def run() -> None:
            ran = aureon("run", "--until-idle", "3", cwd=tmp_path, timeout_s=120, **settings)
            assert ran.returncode == 0, ran.stderr

        def replay(*arguments: str) -> dict[str, Any]:
            done = aureon("replay", *arguments, "--json", cwd=tmp_path, **settings)
            assert done.returncode == 0, done.stderr
            told: dict[str, Any] = json.loads(done.stdout)
            return told

        lines = [
            {
                "topic": "math",
                "logical_id": f"t{n}",
                "payload": {"prompt": f"{how} {n}"},
                "metadata": {"n": str(n)},
                "priority": n,
            }
            for n, how in enumerate(["works", "at first", "at first", "for ever"])
        ]
        lines.append({**lines[0], "payload": {"prompt": "another question under its id"}})
        sent = aureon("submit", "-", cwd=tmp_path, stdin="\n".join(map(json.dumps, lines)), **settings)
        assert sent.returncode == 0, sent.stderr
        run()
        model.fails = False
        told = replay("redrive", "--run", "first")
        assert (told["redriven"], told["open"]) == (3, 3)
        assert told["left"] == {"it is not what its id ended with: send it under an id of its own": 1}
        # once more by somebody else, before the first ones are decided; and a generation that nobody has sealed
        assert replay("redrive", "--run", "second")["redriven"] == 3
        producer = CheckedProducer(client_config(own_broker.brokers))
        forged = {**lines[0], "generation": 1}
        producer.send(TASKS, home_lane("t0", 2), [json.dumps(forged).encode()])
        producer.flush()
        producer.close()
        run()
        told = replay("report", "--run", "first")
        assert (told["records"], told["dead"], told["open"]) == (2, 1, 0)
        with one_lake.connect(tmp_path / "lake") as lake:
            records = lake.sql(
                "SELECT logical_id, generation, metadata ->> '$.n' FROM one ORDER BY logical_id"
            ).fetchall()
            letters = lake.sql("SELECT logical_id, generation, reason FROM dead_letters ORDER BY ALL").fetchall()
        assert records == [("t0", 0, "0"), ("t1", 1, "1"), ("t2", 1, "2")]
        assert letters == [
            ("", 0, "bad_input"),
            ("t0", 0, "id_conflict"),
            ("t1", 0, "attempts_spent"),
            ("t2", 0, "attempts_spent"),
            ("t3", 0, "attempts_spent"),
            ("t3", 1, "attempts_spent"),
        ]
        # its third life; the others have a record
        told = replay("redrive", "--run", "third", "--topic", "math")
        assert told["redriven"] == 1
        assert told["left"]["its id has a record"] == 2
        assert told["left"]["it was redriven already"] == 1
        run()
        assert replay("report", "--run", "third")["dead"] == 1
    assert verify(tmp_path / "lake").is_sound, verify(tmp_path / "lake").first


def test_a_redrive_needs_the_clusters_key(own_broker: Broker, tmp_path: Path) -> None:
    """It makes none of its own."""
    writer = lake_writer(tmp_path / "lake")
    writer.add(decisions(0, range(9)))
    writer.flush()
    writer.close()
    command = ("replay", "redrive", "--run", "x", "--home", tmp_path)
    done = aureon(*command, cwd=tmp_path, AUREON_BROKERS=own_broker.brokers)
    assert (done.returncode, "no key; a redrive is sealed" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "cluster.key").exists()


def dead(**changes: Any) -> _Dead:
    """A dead letter that may be sent again, but for what is said otherwise."""
    told: dict[str, Any] = {"lane": 0, "decision_offset": 7, "cluster": None, "topic": "math", "logical_id": "x"}
    told |= {"generation": 0, "reason": "no_answer", "introduces": True, "task": None, "payload": "{}"}
    told |= {"follows": False, "is_done": False, "is_driven": False}
    return _Dead(**told | changes)


def test_what_cannot_be_sent_again_says_why(own_broker: Broker, tmp_path: Path) -> None:
    """Of another cluster its ids are not this one's to give; of an old one too little is known."""
    settings = Settings(home=str(tmp_path), brokers=own_broker.brokers)
    cluster_key(settings.key_path)
    with contextlib.closing(Redriving(settings)) as redriving:
        assert redriving._hindrance(dead(cluster="another")) == "it died in another cluster"
        assert "it is from before Aureon kept what is needed" in redriving._hindrance(dead())


def test_the_next_life_begins_with_what_its_branches_may_be_and_nothing_else() -> None:
    """What the earlier rounds found and took is of the earlier life."""
    origin = Origin(introduces=False, ancestors=(Ancestor("math", "root"),), branches_left=3, answer="41", calls=9)
    head = TaskHead(topic="math", logical_id="x", task_id="x:r2", round_index=2, origin=origin)
    again = _next_life(dead(task=encode(head).decode()), '{"prompt": "?"}')
    assert (again.task_id, again.generation) == ("x:r0", 1)
    assert again.origin == Origin(introduces=True, ancestors=origin.ancestors, branches_left=3)


def test_what_is_left_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever redrives learns what was not sent again."""
    told = RedriveReport(run="again", is_complete=True, redriven=3, left={"no task": 2}, records=1, dead=1, open=1)
    monkeypatch.setattr(replay, "redrive_report", lambda *_: told)
    run: Any = None
    assert replay._tell_redrive(Settings(home=str(tmp_path)), "again", run, as_json=False) == 0
    assert capsys.readouterr().out == (
        "run again: 3 dead letters redriven\n  2 left: no task\nof these by now: 1 records, 1 dead again, 1 to come\n"
    )
