"""The keys that commits are signed with."""

import copy
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from one_lake.keys import PublicKey, public_keys, publish, rotate, signing_key, trusted
from schemas.errors import RefusedError
from tests.one_lake.lake_data import KEY

MAKE = """
import sys
from pathlib import Path
from one_lake.keys import signing_key
print(signing_key(Path(sys.argv[1])).name)
"""


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    """Also where several processes begin at once."""
    state = tmp_path / "state"
    started = [subprocess.Popen([sys.executable, "-c", MAKE, str(state)], stdout=subprocess.PIPE) for _ in range(4)]
    names = {process.communicate(timeout=60)[0].decode().strip() for process in started}
    assert names == {signing_key(state).name}
    assert stat.S_IMODE((state / "signing.key").stat().st_mode) == 0o600
    assert [path.name for path in state.iterdir()] == ["signing.key"]


def test_what_a_key_signs_only_its_public_half_confirms(tmp_path: Path) -> None:
    """And for this message alone."""
    publish(tmp_path, KEY)
    public = public_keys(tmp_path)[KEY.name]
    signature = KEY.sign(b"so")
    assert public.holds(signature, b"so")
    assert not public.holds(signature, b"otherwise")
    assert not public.holds("no hex", b"so")
    assert not PublicKey(key=signing_key(tmp_path / "other").key, created_at=0.0).holds(signature, b"so")


def test_a_private_key_is_told_to_nobody() -> None:
    """No repr and no pickle has it."""
    assert repr(KEY) == f"SigningKey({KEY.name})"
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="is not pickled"):
            leak(KEY)


def test_a_file_that_holds_no_key_is_named(tmp_path: Path) -> None:
    """It is not replaced: it may be the cell's own, spoilt."""
    (tmp_path / "signing.key").write_text("nonsense")
    with pytest.raises(RefusedError, match=r"signing\.key: expected an Ed25519 key"):
        signing_key(tmp_path)


def test_a_key_that_follows_on_a_trusted_one_is_trusted(tmp_path: Path) -> None:
    """Over several steps; one that only claims so is not."""
    lake, state = tmp_path / "lake", tmp_path / "state"
    first, second = rotate(lake, state)
    again, third = rotate(lake, state)
    assert again.name == second.name
    assert signing_key(state).name == third.name
    keys = public_keys(lake)
    assert keys.keys() == {first.name, second.name, third.name}
    assert trusted(keys, [first.name]) == keys.keys()
    assert trusted(keys, [third.name]) == {third.name}
    assert trusted(keys, ["unknown"]) == set()
    liar = PublicKey(key=KEY.key, created_at=0.0, follows=first.name, certificate=keys[second.name].certificate)
    assert KEY.name not in trusted({**keys, KEY.name: liar}, [first.name])


def test_public_keys_that_are_none_are_left_out(tmp_path: Path) -> None:
    """Nor is one taken that has another's name."""
    publish(tmp_path, KEY)
    folder = tmp_path / "keys"
    (folder / "0123456789abcdef.json").write_bytes((folder / f"{KEY.name}.json").read_bytes())
    (folder / "broken.json").write_text("{")
    assert public_keys(tmp_path).keys() == {KEY.name}
