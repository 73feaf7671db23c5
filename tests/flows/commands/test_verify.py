"""`aureon verify` and `aureon keys`: what they tell, and with which exit code."""

import json
import re
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from connectors.checked_producer import CheckedProducer
from connectors.heads import publish_head
from connectors.kafka import client_config
from connectors.topics import ensure_topics
from flows import cli
from one_lake import tables
from one_lake.keys import signing_key
from schemas.head import Head
from schemas.one import RoundRow, arrow_schema
from tests.brokers import Broker
from tests.one_lake.lake_data import decisions, lake_writer, round_row


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a lake of three commits."""
    writer = lake_writer(tmp_path / "lake", signing_key(tmp_path / "state"))
    for start in range(0, 30, 10):
        writer.add(decisions(0, range(start, start + 10)))
        writer.flush()
    writer.close()
    return tmp_path


def aureon(home: Path, command: str, *arguments: str) -> int:
    """Run it in this process."""
    return cli.main([command, "--home", str(home), *arguments])


def spoil(home: Path) -> None:
    """Flip a bit of a file with records."""
    path = min(tables.folder(home / "lake", "records").glob("*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_sound_lake_is_told_with_its_head(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the head is what one keeps to compare with."""
    assert aureon(home, "verify") == 0
    shown = capsys.readouterr().out
    assert "10 records, 15 branches, 10 dead_letters, 30 rounds; 12 files, 12 signed commits" in shown
    assert shown.endswith("sound: nothing is lost, doubled or altered\n")
    (head,) = re.findall(r"^head: version 3 of rounds, ([0-9a-f]{64})", shown, re.MULTILINE)
    assert aureon(home, "verify", "--head", head, "--key", signing_key(home / "state").name) == 0
    assert aureon(home, "verify", "--head", "0" * 64) == 1
    assert "head_missing: " in capsys.readouterr().out


def test_the_output_is_kept_as_the_head_to_compare_with(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a file."""
    assert aureon(home, "verify", "--json") == 0
    kept = home / "kept.json"
    kept.write_text(capsys.readouterr().out)
    assert aureon(home, "verify", "--head", str(kept)) == 0
    for table in ("records", "branches", "dead_letters", "rounds"):
        tables.log_entry(home / "lake", table, 3).unlink()
    assert aureon(home, "verify") == 0, "whole in itself"
    assert aureon(home, "verify", "--head", str(kept)) == 1
    assert "rounds version 3: " in capsys.readouterr().out


def test_each_fault_is_explained_and_the_first_record_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a line."""
    spoil(home)
    assert aureon(home, "verify") == 1
    shown = capsys.readouterr().out
    assert "file_altered: a file is not the one that was sealed, or cannot be read; first records/part-" in shown
    assert "NOT SOUND: " in shown
    assert aureon(home, "verify", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["first"]["file_altered"]["where"].startswith("records/part-")


def test_rows_from_before_commits_were_signed_are_told_with_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For them nothing vouches."""
    tables.create(tmp_path / "lake")
    row = msgspec.structs.asdict(round_row(0, 1, kind="next_round", cluster=None, decision_hash=None))
    rows = pa.Table.from_pylist([row], arrow_schema(RoundRow))
    write_deltalake(tables.folder(tmp_path / "lake", "rounds"), rows, mode="append")
    assert aureon(tmp_path, "verify") == 0
    assert capsys.readouterr().out.endswith("sound, but for 1 row from before commits were signed\n")


@pytest.mark.kafka
def test_heads_come_from_kafka(home: Path, own_broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest one of each key."""
    kafka = ("--brokers", own_broker.brokers, "--head")
    config = client_config(own_broker.brokers)
    ensure_topics(config, 1)
    assert aureon(home, "verify", *kafka) == 2
    assert "no head of a lake is on Kafka yet" in capsys.readouterr().err
    assert aureon(home, "verify", "--json") == 0
    head = json.loads(capsys.readouterr().out)["head"]
    producer = CheckedProducer(config)
    publish_head(producer, Head(**head | {"hash": "00"}))
    publish_head(producer, Head(**head))
    producer.flush()
    assert aureon(home, "verify", *kafka) == 0
    assert "heads that were told and are in it: 1" in capsys.readouterr().out
    publish_head(producer, Head(**head | {"key": "another", "hash": "00"}))
    producer.flush()
    producer.close()
    assert aureon(home, "verify", *kafka) == 1


@pytest.mark.parametrize(
    "arguments,said",
    [
        (("--head", "nowhere.json"), "expected nothing"),
        (("--head", __file__), "no head of a lake"),
        (("--key", "0123456789abcdef"), "no key 0123456789abcdef in it"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    """With what would be right."""
    assert aureon(home, "verify", *arguments) == 2
    assert said in capsys.readouterr().err


def test_without_a_lake_there_is_nothing_to_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor has it keys."""
    for command in ("verify", "keys"):
        assert aureon(tmp_path, command) == 2
        assert "no lake at" in capsys.readouterr().err


def test_keys_are_listed_and_rotated(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The new one follows on the old one."""
    before = signing_key(home / "state").name
    assert aureon(home, "keys") == 0
    assert capsys.readouterr().out.startswith(f"{before}  since ")
    assert aureon(home, "keys", "rotate") == 0
    after = signing_key(home / "state").name
    assert capsys.readouterr().out.startswith(f"{after} follows on {before}")
    assert aureon(home, "keys", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(k["name"], k["follows"], k["own"]) for k in listed] == [(before, None, False), (after, before, True)]
    (home / "state" / "signing.key").unlink()
    assert aureon(home, "keys", "rotate") == 2
    assert "no key to follow on" in capsys.readouterr().err
