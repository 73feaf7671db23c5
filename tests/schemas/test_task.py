"""A task whose payload nobody can read whole."""

import msgspec
import pytest

from schemas.errors import BadRecordError
from schemas.task import TaskDescriptor, read_digest


@pytest.mark.parametrize(
    "payload, told", [(b"[" * 100_000 + b"]" * 100_000, "nested too deeply"), (b"1e999999", ""), (b"[1", "")]
)
def test_a_payload_that_cannot_be_read_whole_is_a_bad_record(payload: bytes, told: str) -> None:
    """Two of them could not be told apart."""
    task = TaskDescriptor(topic="math", logical_id="x", payload=msgspec.Raw(payload))
    with pytest.raises(BadRecordError, match=rf"{told}.* - at `\$\.payload`$"):
        read_digest(task)
