"""The keys that commits are signed with: Ed25519 (RFC 8032), each cell its own.

    state/signing.key          the private one, PEM (PKCS #8), readable by its owner alone
    lake/keys/<name>.json      the public ones of all cells that have written, for whoever verifies

A key that follows on another, by `rotate`, is certified by it: whoever trusts the old one may trust the new one.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from msgspec import Struct

from connectors.whole_files import ANYBODY, make_once, replace
from one_lake import tables
from schemas.errors import RefusedError

FILE_NAME = "signing.key"
"""Of the private key, in a state folder."""

_CERTIFIES = b"aureon: this key follows on mine: "
"""What a certificate signs begins with this, so that it is no signature of anything else."""


class PublicKey(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A public key as the lake has it."""

    key: str
    """32 bytes, in hex."""
    created_at: float
    """Seconds since the epoch."""
    follows: str = ""
    """The name of the key that it follows on."""
    certificate: str = ""
    """That key's signature over this one, in hex."""

    @property
    def name(self) -> str:
        """What commits call it: the first 64 bits of its sha256, in hex."""
        return hashlib.sha256(bytes.fromhex(self.key)).hexdigest()[:16]

    def holds(self, signature: str, message: bytes) -> bool:
        """Tell whether a signature, in hex, is this key's over a message."""
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.key)).verify(bytes.fromhex(signature), message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def certifies(self, other: "PublicKey") -> bool:
        """Tell whether another key follows on this one by this one's own word."""
        return other.follows == self.name and self.holds(other.certificate, _CERTIFIES + other.key.encode())


class SigningKey:
    """A private key. Nothing that prints or pickles objects gets at it.

    Args:
        private: the key.
    """

    __slots__ = ("_private", "key", "name")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key = private.public_key().public_bytes_raw().hex()
        """Its public half: 32 bytes, in hex."""
        self.name = PublicKey(key=self.key, created_at=0.0).name

    def __repr__(self) -> str:
        return f"SigningKey({self.name})"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled")

    def sign(self, message: bytes) -> str:
        """Sign a message; the signature in hex."""
        return self._private.sign(message).hex()


def signing_key(state_dir: Path) -> SigningKey:
    """Read the key of a state folder, or make one; several processes may do so at once.

    Raises:
        RefusedError: the file holds something else.
    """
    path = state_dir / FILE_NAME
    make_once(path, _pem(Ed25519PrivateKey.generate()))
    try:
        private = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise RefusedError(
            f"{path}: expected an Ed25519 key in PEM; put the cell's own back, or remove it to begin with a new one"
        )
    return SigningKey(private)


def publish(lake_dir: str | Path, key: SigningKey) -> None:
    """Leave the public half of a key in the lake, unless it is there."""
    _write(lake_dir, PublicKey(key=key.key, created_at=time.time()))


def rotate(lake_dir: str | Path, state_dir: Path) -> tuple[SigningKey, SigningKey]:
    """Replace the key of a state folder by a new one, certified by the old one; a cell takes it at its next start.

    Returns:
        The old key and the new one.
    """
    old = signing_key(state_dir)
    private = Ed25519PrivateKey.generate()
    new = SigningKey(private)
    publish(lake_dir, old)
    # public first: nothing is signed with a key that nobody can know
    certificate = old.sign(_CERTIFIES + new.key.encode())
    _write(lake_dir, PublicKey(key=new.key, created_at=time.time(), follows=old.name, certificate=certificate))
    replace(state_dir / FILE_NAME, _pem(private))
    return old, new


def public_keys(lake_dir: str | Path) -> dict[str, PublicKey]:
    """All public keys of a lake by name; a file that holds none, or one of another name, is left out."""
    found = {}
    for path in sorted(tables.keys_folder(lake_dir).glob("*.json")):
        try:
            key = msgspec.json.decode(path.read_bytes(), type=PublicKey)
            if key.name == path.stem:
                found[key.name] = key
        except (ValueError, RecursionError):
            continue
    return found


def trusted(keys: Mapping[str, PublicKey], roots: Iterable[str]) -> set[str]:
    """The names of the keys that one may trust who trusts some: these, and those that follow on them."""
    found = {name for name in roots if name in keys}
    while more := {k.name for k in keys.values() if k.follows in found and keys[k.follows].certifies(k)} - found:
        found |= more
    return found


def _pem(private: Ed25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _path(lake_dir: str | Path, name: str) -> Path:
    return tables.keys_folder(lake_dir) / f"{name}.json"


def _write(lake_dir: str | Path, key: PublicKey) -> None:
    make_once(_path(lake_dir, key.name), msgspec.json.format(msgspec.json.encode(key)) + b"\n", ANYBODY)
