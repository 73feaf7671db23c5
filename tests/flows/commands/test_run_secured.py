"""`aureon run` on a Kafka that asks who is there: what it needs to be told and granted, and how a refusal reads."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka.admin import AclOperation, ResourceType

from tests.aureon_command import Finished, aureon
from tests.flows.commands.test_run import TASKS
from tests.secure_kafka import USER, Authority, SecureKafka

pytestmark = pytest.mark.apache

CLIENT = """
# as the administrator handed it over
security.protocol = SASL_SSL
sasl.mechanisms   = SCRAM-SHA-512
sasl.username     = {user}
sasl.password     = {password}
ssl.ca.location   = {authority}
"""
WRONG = "hunter2-wrong"
TOPICS = ("tasks.", "nodes.heartbeat", "one.heads", "supervision.directives")


class Access(NamedTuple):
    """How a user comes to a broker."""

    brokers: str
    config: str


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A broker on which Aureon's user has what README asks for, and nothing else."""
    broker = SecureKafka(tmp_path_factory.mktemp("secure") / "kafka")
    try:
        broker.start()
        rights = (AclOperation.CREATE, AclOperation.DESCRIBE_CONFIGS)
        for prefix in TOPICS:
            broker.grant(ResourceType.TOPIC, prefix, *rights, AclOperation.READ, AclOperation.WRITE)
        broker.grant(ResourceType.GROUP, "aureon", AclOperation.READ)
        yield broker
    finally:
        broker.stop()


def by_password(folder: Path, secure: SecureKafka, **changes: str) -> Access:
    """That of a user with a password, in a file."""
    given = {"user": USER, "password": secure.password, "authority": str(secure.authority.path), **changes}
    (folder / "client.properties").write_text(CLIENT.format(**given))
    return Access(secure.scram_brokers, "@client.properties")


def by_certificate(folder: Path, secure: SecureKafka) -> Access:
    """That of a user with a certificate, in a variable."""
    mine = secure.authority.issue(folder / "mine.pem", USER)
    places = {"ca": secure.authority.path, "certificate": mine, "key": mine}
    config = ["security.protocol=SSL", *(f"ssl.{name}.location={path}" for name, path in places.items())]
    return Access(secure.mutual_brokers, ";".join(config))


def ran(folder: Path, access: Access, *arguments: str, stdin: str = "") -> Finished:
    """Run a command of `aureon` with it."""
    brokers, config = access
    return aureon(*arguments, cwd=folder, stdin=stdin, AUREON_BROKERS=brokers, AUREON_KAFKA_CONFIG=config)


def holding(folder: Path, text: str) -> list[Path]:
    """Files below a folder with some text in them."""
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_user_with_a_password_refines_tasks_and_the_password_is_nowhere(secure: SecureKafka, tmp_path: Path) -> None:
    """From the submission to the lake, over TLS, with no more rights than README says; at full loquacity."""
    access = by_password(tmp_path, secure)
    submitted = ran(tmp_path, access, "submit", "-", stdin=TASKS)
    assert submitted.returncode == 0, submitted.stderr
    done = ran(tmp_path, access, "run", "--verbose", "--until-idle", "2")
    assert done.returncode == 0, done.stderr
    assert "not told" not in done.stderr
    assert "not committed" not in done.stderr
    found = ran(tmp_path, access, "status", "--json")
    assert json.loads(found.stdout)["waiting"] == 0
    records = aureon("sql", "--json", "SELECT count(*) AS n FROM one WHERE topic = 'math'", cwd=tmp_path)
    assert json.loads(records.stdout) == [{"n": 40}]
    assert holding(tmp_path, secure.password) == [tmp_path / "client.properties"]
    assert not any(secure.password in text for one in (submitted, done, found) for text in (one.stdout, one.stderr))


def test_a_user_with_a_certificate_is_let_in_and_one_without_is_not(secure: SecureKafka, tmp_path: Path) -> None:
    """Both sides show one, or it is told how."""
    done = ran(tmp_path, by_certificate(tmp_path, secure), "submit", "-", stdin=TASKS)
    assert done.returncode == 0, done.stderr
    assert "40 tasks submitted" in done.stdout + done.stderr
    without = f"security.protocol=SSL;ssl.ca.location={secure.authority.path}"
    done = ran(tmp_path, Access(secure.mutual_brokers, without), "run")
    assert done.returncode == 2
    assert "ssl.certificate.location and ssl.key.location to your own" in done.stderr


def test_a_wrong_password_is_refused_by_name_and_not_shown(secure: SecureKafka, tmp_path: Path) -> None:
    """Soon, and in one line."""
    began = time.monotonic()
    done = ran(tmp_path, by_password(tmp_path, secure, password=WRONG), "run")
    assert time.monotonic() - began < 45
    assert done.returncode == 2
    assert done.stderr.startswith(f"aureon: Kafka at {secure.scram_brokers} refuses this user (")
    assert "sasl.password in AUREON_KAFKA_CONFIG" in done.stderr
    assert WRONG not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_broker_whose_certificate_nobody_trusts_is_refused(secure: SecureKafka, tmp_path: Path) -> None:
    """It may be somebody else, who wants the password."""
    stranger = Authority(tmp_path / "stranger.pem")
    began = time.monotonic()
    done = ran(tmp_path, by_password(tmp_path, secure, authority=str(stranger.path)), "run")
    assert time.monotonic() - began < 45
    assert done.returncode == 2
    assert done.stderr.startswith(f"aureon: no TLS with Kafka at {secure.scram_brokers} (")
    assert "set ssl.ca.location in AUREON_KAFKA_CONFIG" in done.stderr
    assert done.stderr.count("\n") == 1


def test_who_does_not_speak_tls_is_told_where_to_say_so(secure: SecureKafka, tmp_path: Path) -> None:
    """The broker itself only hangs up."""
    done = ran(tmp_path, Access(secure.scram_brokers, ""), "run")
    assert done.returncode == 1, "it may as well be away"
    assert "security.protocol in AUREON_KAFKA_CONFIG" in done.stderr
