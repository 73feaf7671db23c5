"""What users name makes objects: what they make has to be one. And what is told to the Kafka client."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.settings import Settings, import_object, make_object, read_settings
from schemas.errors import RefusedError


def good(given: int) -> Any:
    """Makes what it should."""
    return SimpleNamespace(name="good", judge=lambda: given)


def broken(_given: int) -> Any:
    """Fails."""
    raise KeyError("missing")


LINE_OF_THE_FAULT = broken.__code__.co_firstlineno + 2


def refusing(_given: int) -> Any:
    """Says itself what is wrong."""
    raise RefusedError("not with that")


def test_an_object_is_made_of_what_is_given() -> None:
    """As it is."""
    assert make_object(good, "it", "judge", 7).judge() == 7


@pytest.mark.parametrize(
    "make, told",
    [
        (1, "it cannot be made: TypeError: 'int' object is not callable"),
        (broken, f"it cannot be made: KeyError: 'missing' (test_settings.py, line {LINE_OF_THE_FAULT})"),
        (refusing, "not with that"),
        (lambda _given: SimpleNamespace(judge=print), "it gave SimpleNamespace, which has no `name` or no `judge`"),
        (lambda _given: SimpleNamespace(name="x"), "it gave SimpleNamespace, which has no `name` or no `judge`"),
        (lambda _given: None, "it gave NoneType, which has no `name` or no `judge`"),
    ],
)
def test_what_is_none_is_refused(make: Any, told: str) -> None:
    """Before anything begins, and the message has the place."""
    with pytest.raises(RefusedError) as refused:
        make_object(make, "it", "judge", 7)
    assert str(refused.value) == told


@pytest.mark.parametrize("given, share", [("", (1, 1)), ("1/1", (1, 1)), ("2/3", (2, 3))])
def test_a_cell_is_told_which_one_it_is(given: str, share: tuple[int, int]) -> None:
    """From 1 on, of how many."""
    assert read_settings({"cell": given}, {}).cell_share == share


@pytest.mark.parametrize("given", ["0/3", "4/3", "3", "a/b", "1/3/5", "-1/3"])
def test_a_cell_that_is_none_is_refused(given: str) -> None:
    """With an example."""
    with pytest.raises(RefusedError, match="expected i/n, such as 2/3"):
        _ = read_settings({"cell": given}, {}).cell_share


def test_client_properties_come_from_a_variable_or_from_a_file(tmp_path: Path) -> None:
    """In the file a value may hold what separates them in the variable; it has comments, and no escapes."""
    assert Settings(kafka_config="a=1; b = x=y ;").kafka_properties == {"a": "1", "b": "x=y"}
    path = tmp_path / "client.properties"
    path.write_text("# comment\n\n  ! another\nsasl.password = p;a=s\\n#s \nsasl.username=me\n")
    properties = Settings(kafka_config=f"@{path}").kafka_properties
    assert properties == {"sasl.password": "p;a=s\\n#s", "sasl.username": "me"}


def test_what_is_wrong_in_client_properties_is_told_with_its_place_and_without_itself(tmp_path: Path) -> None:
    """It may be half of a password."""
    with pytest.raises(RefusedError) as refused:
        _ = Settings(kafka_config="sasl.password=hun;ter2").kafka_properties
    assert str(refused.value) == (
        "AUREON_KAFKA_CONFIG, part 2: expected key=value, and there is no `=` behind a key; "
        "a value with a semicolon in it needs a file (@FILE)"
    )
    path = tmp_path / "client.properties"
    path.write_text("sasl.username=me\n\nhunter2\n")
    with pytest.raises(RefusedError) as refused:
        _ = Settings(kafka_config=f"@{path}").kafka_properties
    assert str(refused.value) == f"{path}:3: expected key=value, and there is no `=` behind a key"


def test_client_properties_that_are_not_there_are_refused(tmp_path: Path) -> None:
    """By name."""
    with pytest.raises(RefusedError, match=r"AUREON_KAFKA_CONFIG: \S+missing cannot be read"):
        _ = Settings(kafka_config=f"@{tmp_path}/missing").kafka_properties


def test_what_a_setting_names_may_be_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every command alike, also where the interpreter was not told of that folder."""
    (tmp_path / "beside_the_command.py").write_text("found = 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    assert import_object("beside_the_command:found", "policy") == 7
    assert sys.path[-1] == str(tmp_path)
    assert import_object("beside_the_command:found", "policy") == 7
    assert sys.path.count(str(tmp_path)) == 1
