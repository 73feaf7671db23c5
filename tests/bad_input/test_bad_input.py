"""Each row of the table, by the way on which such input comes: the message, and what becomes of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.bad_input import given
from tests.bad_input.rows import BROADCASTS, COMMANDS, LAKE, MESSAGES, REPLIES, STATE, Command, Damage, Reply, Row
from tests.bad_input.table import PATH, rendered
from tests.brokers import new_broker
from tests.openai_server import OpenAIServer

SECRETS = ("hunter2", "ter2", given.SECRET)


def named(row: Row) -> str:
    """What a row is called among the tests."""
    return row.kind


class Ran(NamedTuple):
    """A cell that has run to its end."""

    home: Path
    brokers: str
    heard: given.Heard


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """A cell that was given all messages, on a broker that nobody empties between two rows."""
    home, broker = tmp_path_factory.mktemp("home"), new_broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    try:
        yield Ran(home, broker.brokers, given.on_kafka(MESSAGES, BROADCASTS, home, broker.brokers))
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    """A server of models."""
    with given.server() as one:
        yield one


@pytest.mark.parametrize("row", [row for row in COMMANDS if not row.on_broker], ids=named)
def test_a_command_says_what_is_wrong(row: Command, tmp_path: Path) -> None:
    """In one line, without a traceback and without a secret."""
    check(row, given.command(row, tmp_path, ""))


@pytest.mark.parametrize("row", [row for row in COMMANDS if row.on_broker], ids=named)
def test_a_command_with_a_broker_says_what_is_wrong(row: Command, cell: Ran, tmp_path: Path) -> None:
    """As one without."""
    check(row, given.command(row, tmp_path, cell.brokers))


def check(row: Command | Damage, told: given.Told) -> None:
    """Compare what was told with the table."""
    assert told.says == row.says
    assert told.code == row.code
    assert "Traceback" not in told.says
    assert not any(secret in told.says for secret in SECRETS)


@pytest.mark.parametrize("place, row", list(enumerate(MESSAGES)), ids=[row.kind for row in MESSAGES])
def test_a_message_becomes_a_dead_letter_that_says_why(place: int, row: Row, cell: Ran) -> None:
    """With its place and the field."""
    letter = cell.heard.dead[place]
    assert (letter.detail, letter.reason) == (row.says, "bad_input")


@pytest.mark.parametrize("row", BROADCASTS, ids=named)
def test_a_message_to_all_that_is_none_is_left_out_with_a_word(row: Row, cell: Ran) -> None:
    """In the log of the cell, which goes on."""
    assert row.says in cell.heard.log.splitlines()


@pytest.mark.parametrize("row", REPLIES, ids=named)
def test_an_answer_over_http_that_is_none_says_why(row: Reply, server: OpenAIServer) -> None:
    """And of which sort it is, by which the call is tried again or not."""
    assert given.over_http(row, server) == (row.failure, row.says)
    assert given.SECRET not in row.says


@pytest.mark.parametrize("row", STATE, ids=named)
def test_a_damaged_file_of_a_home_is_named(row: Damage, cell: Ran, tmp_path: Path) -> None:
    """When a cell starts on it, with the cure."""
    shutil.copytree(cell.home / ".aureon", tmp_path / ".aureon")
    check(row, given.state(row, tmp_path, cell.brokers))


@pytest.mark.parametrize("row", LAKE, ids=named)
def test_a_damaged_file_of_a_lake_is_named(row: Damage, tmp_path: Path) -> None:
    """By whoever reads it."""
    check(row, given.lake(row, tmp_path))


def test_there_are_at_least_a_hundred_kinds_and_each_once() -> None:
    """So that none is in two rows, of which one is looked at."""
    kinds = [row.kind for rows in (COMMANDS, MESSAGES, BROADCASTS, REPLIES, STATE, LAKE) for row in rows]
    assert len(kinds) >= 100
    assert len(set(kinds)) == len(kinds)


def test_the_table_to_read_is_up_to_date() -> None:
    """`python -m tests.bad_input` writes it."""
    assert PATH.read_text(encoding="utf-8") == rendered()
