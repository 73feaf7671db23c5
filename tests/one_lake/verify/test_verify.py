"""A lake that is as it was written is found sound, and whatever is done to it is found."""

import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from connectors.blobs import BlobStore
from one_lake import tables
from one_lake.encode import encode_rows, record_batch, row_hashes
from one_lake.keys import rotate, signing_key
from one_lake.seals import SEAL, SIGNATURE, Seal, archive, seal_in, sign
from one_lake.verify import Fault, Report, verify
from one_lake.verify import run as verify_run
from one_lake.verify.files import MAX_FINDINGS, FileReport
from one_lake.verify.report import FAULTS
from schemas.errors import RefusedError
from schemas.head import Head
from schemas.ids import content_hash
from schemas.one import SUPERSEDED, Record, Row
from schemas.task import encode
from tests.one_lake.lake_data import KEY, branch, dead_letter, decisions, hash_at, lake_writer, record, round_row

LANES = (0, 1)
FLIPPED_EACH = 131
"""Of the bytes of a file."""


class Lake:
    """A lake with twelve commits, or fewer, and what was told of it elsewhere."""

    def __init__(self, folder: Path, commits: int = 12) -> None:
        self.folder = folder
        self.heads: list[Head] = []
        writer = lake_writer(folder)
        for start in range(0, commits * 10, 10):
            for lane in LANES:
                writer.add(decisions(lane, range(start, start + 10)))
            head = writer.flush()
            assert head is not None
            self.heads.append(head)
        writer.close()

    def add(self, *rows: Row) -> None:
        """Commit rows, signed."""
        writer = lake_writer(self.folder)
        writer.add(rows)
        writer.flush()
        writer.close()

    def verify(self, **options: Any) -> Report:
        """Verify it against the newest head."""
        return verify(self.folder, heads=self.heads[-1:], **options)

    def entry(self, table: str, version: int) -> Path:
        """An entry of a table's log."""
        return tables.log_entry(self.folder, table, version)

    def file(self, table: str, version: int) -> Path:
        """The file that a version added."""
        signed = seal_in(self.entry(table, version).read_bytes())
        assert signed is not None
        return tables.folder(self.folder, table) / signed.seal.files[0].name

    def rewrite(self, table: str, version: int, change: Callable[[pa.Table], pa.Table]) -> None:
        """Put other rows in the place of those of a file."""
        path = self.file(table, version)
        pq.write_table(change(pq.read_table(path)), path)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Write the lake."""
    return Lake(tmp_path / "lake")


def with_column(rows: pa.Table, name: str, values: Any) -> pa.Table:
    """Exchange a column."""
    return rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)


def swapped(rows: pa.Table) -> pa.Table:
    """Exchange the payloads of the first two rows."""
    (first, second, *rest) = rows["logical_id"].to_pylist()
    return with_column(rows, "logical_id", pa.array([second, first, *rest], pa.string()))


def with_other_answer(rows: pa.Table) -> pa.Table:
    """Another answer in the first record, with all its own hashes made good."""
    values = rows.to_pylist()
    for name in ("started_at", "converged_at"):
        values[0][name] = rows[name][0].cast(pa.int64()).as_py()
    forged = Record(**{k: v for k, v in values[0].items() if k not in {"row_hash", "content_hash"}}, content_hash="")
    told = {k: getattr(forged, k) for k in Record.__struct_fields__} | {"answer": "3"}
    told["content_hash"] = content_hash(told["topic"], told["logical_id"], 0, told["payload"].encode(), "3")
    lines = encode_rows([Record(**told)])
    assert len(row_hashes(lines)) == 1
    return pa.concat_tables([pa.Table.from_batches([record_batch(Record, lines)]), rows.slice(1)])


def forged_record(lake: Lake) -> None:
    """Somebody with a Delta library adds a record."""
    batch = record_batch(Record, encode_rows([record(0, 100, logical_id="mine")]))
    write_deltalake(tables.folder(lake.folder, "records"), pa.Table.from_batches([batch]), mode="append")


def smuggled(lake: Lake, table: str, row: Row, version: int) -> None:
    """Somebody without a key adds a file with one row to an entry that is there; no lane and no hash tell of it."""
    batch = record_batch(type(row), encode_rows([row]))
    rows = with_column(pa.Table.from_batches([batch]), "row_hash", pa.array([None], pa.string()))
    path = tables.folder(lake.folder, table) / "part-mine.parquet"
    pq.write_table(rows, path)
    added = {
        "path": path.name,
        "partitionValues": {},
        "size": path.stat().st_size,
        "modificationTime": 0,
        "dataChange": True,
    }
    with lake.entry(table, version).open("a") as entry:
        entry.write("\n" + json.dumps({"add": added}) + "\n")


MINE: dict[str, Any] = {"logical_id": "mine", "cluster": None, "decision_hash": None}


def smuggled_into_an_empty_table(lake: Lake) -> None:
    """No seal is in it yet."""
    tables.create(lake.folder, SUPERSEDED)
    smuggled(lake, SUPERSEDED, record(7, 0, **MINE | {"logical_id": "task-0-0"}), 0)


def given_way(lake: Lake) -> None:
    """Somebody with a Delta library says that a record gave way in a merge, where none of its id stayed."""
    tables.create(lake.folder, SUPERSEDED)
    batch = record_batch(Record, encode_rows([record(0, 100, logical_id="mine")]))
    write_deltalake(tables.folder(lake.folder, SUPERSEDED), pa.Table.from_batches([batch]), mode="append")


def cut_off_tail(lake: Lake) -> None:
    """The last three commits of all tables go, as if they had never been."""
    for table in ("records", "branches", "dead_letters", "rounds"):
        log = tables.folder(lake.folder, table) / "_delta_log"
        for version in (10, 11, 12):
            lake.entry(table, version).unlink()
        for checkpoint in log.glob("*checkpoint*"):
            checkpoint.unlink()


def removed_by_delta(lake: Lake) -> None:
    """A commit that drops a file, which anybody can write."""
    action = {"path": lake.file("records", 5).name, "dataChange": True, "deletionTimestamp": 1}
    lake.entry("records", 13).write_text(json.dumps({"remove": action}) + "\n")


def altered_seal(lake: Lake) -> None:
    """One row less is said to be in a commit."""
    entry = lake.entry("records", 5)
    lines = entry.read_text().splitlines()
    for at, line in enumerate(lines):
        action = json.loads(line)
        if "commitInfo" in action:
            action["commitInfo"][SEAL] = action["commitInfo"][SEAL].replace('"version":5', '"version":5 ')
            lines[at] = json.dumps(action)
    entry.write_text("\n".join(lines))


def signed_again(lake: Lake) -> None:
    """A seal that the key has signed, and that is not the one which was written."""
    entry = lake.entry("rounds", 5)
    signed = seal_in(entry.read_bytes())
    assert signed is not None
    other = sign(Seal(**{f: getattr(signed.seal, f) for f in Seal.__struct_fields__} | {"at": 0.0}), KEY)
    lines = entry.read_text().splitlines()
    for at, line in enumerate(lines):
        action = json.loads(line)
        if "commitInfo" in action:
            action["commitInfo"] |= {SEAL: other.body, SIGNATURE: other.signature}
            lines[at] = json.dumps(action)
    entry.write_text("\n".join(lines))


def archive_ends_early(lake: Lake) -> None:
    """The log has expired, and the archive lacks its last entry."""
    archive(lake.folder, "branches")
    (path,) = tables.seals_folder(lake.folder, "branches").iterdir()
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(lines[:-1])))
    path.rename(path.with_name(path.name.replace("12.jsonl", "11.jsonl")))
    DeltaTable(tables.folder(lake.folder, "branches")).create_checkpoint()
    for version in range(13):
        lake.entry("branches", version).unlink()


def put_together(lake: Lake, change: Callable[[Path], object]) -> None:
    """Do something to a file for which nobody has signed."""
    DeltaTable(tables.folder(lake.folder, "records")).optimize.compact()
    (path,) = DeltaTable(tables.folder(lake.folder, "records")).file_uris()
    change(Path(path))


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Put other rows in the place of those of a file."""
    pq.write_table(change(pq.read_table(path)), path)


def without_a_lane(rows: pa.Table) -> pa.Table:
    """The last row has none."""
    at, lanes = rows.schema.get_field_index("lane"), rows["lane"].to_pylist()
    return rows.set_column(at, "lane", pa.array([*lanes[:-1], None], pa.int64()))


def hash_taken(rows: pa.Table) -> pa.Table:
    """Take the hash of the last row."""
    hashes = rows["row_hash"].to_pylist()
    return with_column(rows, "row_hash", pa.array([*hashes[:-1], None], pa.string()))


def another_seal(lake: Lake) -> None:
    """The seal of one version in the place of another."""
    signed = seal_in(lake.entry("records", 4).read_bytes())
    assert signed is not None
    entry = lake.entry("records", 5)
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    for action in lines:
        if "commitInfo" in action:
            action["commitInfo"] |= {SEAL: signed.body, SIGNATURE: signed.signature}
    entry.write_text("\n".join(map(json.dumps, lines)))


def no_seal(lake: Lake) -> None:
    """What is signed is no seal."""
    entry = lake.entry("records", 5)
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    for action in lines:
        if "commitInfo" in action:
            action["commitInfo"][SEAL] = "{}"
    entry.write_text("\n".join(map(json.dumps, lines)))


def replaced_by_a_folder(path: Path) -> None:
    """So that nobody can read it."""
    path.unlink()
    path.mkdir()


def of_another_lane(rows: pa.Table) -> pa.Table:
    """Move the last row into a lane that the commit has none of."""
    lanes = rows["lane"].to_pylist()
    return with_column(rows, "lane", pa.array([*lanes[:-1], 7], rows.schema.field("lane").type))


def sealed_twice(lake: Lake) -> None:
    """A cell forgets how far it was."""
    table = DeltaTable(tables.folder(lake.folder, "records"))
    nothing = pa.Table.from_batches([record_batch(Record, encode_rows([record(1, 500)]))]).slice(0, 0)
    properties = CommitProperties(app_transactions=[Transaction("lane-0", 100)])
    write_deltalake(table, nothing, mode="append", commit_properties=properties)
    lake.add(record(0, 108), round_row(0, 108))


def with_bad_payload(lake: Lake) -> None:
    """A cell writes a payload that is no JSON."""
    lake.add(record(0, 200, payload="{", content_hash="00"), round_row(0, 200))


def with_text_for_lanes(rows: pa.Table) -> pa.Table:
    """Write a column of numbers as texts, which can be read as numbers."""
    at = rows.schema.get_field_index("lane")
    return rows.set_column(at, "lane", rows["lane"].cast(pa.string()))


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


TAMPERING: dict[str, tuple[Callable[[Lake], object], dict[Fault, str]]] = {
    "a byte is flipped": (lambda lake: flip(lake.file("records", 5)), {Fault.FILE_ALTERED: "records/part-"}),
    "a file is deleted": (
        lambda lake: lake.file("records", 5).unlink(),
        {Fault.FILE_MISSING: "records/part-", Fault.RECORD_MISSING: "rounds[0]@42"},
    ),
    "a file is emptied": (lambda lake: lake.file("rounds", 5).write_bytes(b""), {Fault.FILE_ALTERED: "rounds/part-"}),
    "a column has another name": (
        lambda lake: lake.rewrite("records", 5, lambda rows: rows.rename_columns({"score": "scorf"})),
        {Fault.FILE_ALTERED: "records/part-"},
    ),
    "a column is of another type": (
        lambda lake: lake.rewrite("rounds", 5, with_text_for_lanes),
        {Fault.FILE_ALTERED: "rounds/part-"},
    ),
    "a file is a folder": (
        lambda lake: replaced_by_a_folder(lake.file("records", 5)),
        {Fault.FILE_ALTERED: "records/part-"},
    ),
    "a row loses its hash": (
        lambda lake: lake.rewrite("records", 5, hash_taken),
        {Fault.FILE_ALTERED: "records/part-", Fault.ROW_ALTERED: "records[1]@48"},
    ),
    "a row loses its hash where files were put together": (
        lambda lake: put_together(lake, lambda path: rewritten(path, hash_taken)),
        {Fault.ROW_ADDED: "records["},
    ),
    "what was put together is emptied": (
        lambda lake: put_together(lake, lambda path: path.write_bytes(b"")),
        {Fault.FILE_ALTERED: "records/part-"},
    ),
    "what was put together has a column of another type": (
        lambda lake: put_together(lake, lambda path: rewritten(path, with_text_for_lanes)),
        {Fault.FILE_ALTERED: "records/part-"},
    ),
    "what was put together has a row without a lane": (
        lambda lake: put_together(lake, lambda path: rewritten(path, without_a_lane)),
        {Fault.FILE_ALTERED: "records/part-"},
    ),
    "a row is moved into another lane": (
        lambda lake: lake.rewrite("records", 5, of_another_lane),
        {Fault.ROW_ADDED: "records[7]@"},
    ),
    "the archive of seals ends early": (archive_ends_early, {Fault.LOG_GAP: "branches version 12"}),
    "a seal is put in the place of another": (another_seal, {Fault.SEAL_ALTERED: "records version 5"}),
    "a seal is none": (no_seal, {Fault.SEAL_ALTERED: "records version 5"}),
    "a cell writes a payload that is none": (with_bad_payload, {Fault.CONTENT_ALTERED: "records[0]@200"}),
    "a cell seals a decision twice": (sealed_twice, {Fault.ROW_TWICE: "records[0]@108"}),
    "two rows swap a value": (
        lambda lake: lake.rewrite("records", 5, swapped),
        {Fault.FILE_ALTERED: "records/part-", Fault.ROW_ALTERED: "records[0]@42"},
    ),
    "a record is written anew with good hashes of its own": (
        lambda lake: lake.rewrite("records", 5, with_other_answer),
        {Fault.ROW_REPLACED: "records[0]@42..48", Fault.ROW_DIFFERS: "records[0]@42"},
    ),
    "a row is taken out": (
        lambda lake: lake.rewrite("records", 5, lambda rows: rows.slice(1)),
        {Fault.ROW_MISSING: "records[0]@42..48", Fault.RECORD_MISSING: "rounds[0]@42"},
    ),
    "a row is put in twice": (
        lambda lake: lake.rewrite("records", 5, lambda rows: pa.concat_tables([rows.slice(0, 1), rows])),
        {Fault.ROW_TWICE: "records[0]@42", Fault.ID_TWICE: "records[0]@42"},
    ),
    "a dead letter is taken out": (
        lambda lake: lake.rewrite(
            "dead_letters", 1, lambda rows: rows.filter(pc.not_equal(rows["decision_offset"], 4))
        ),
        {Fault.ROW_MISSING: "dead_letters[0]@1..7", Fault.DEAD_LETTER_MISSING: "rounds[0]@4"},
    ),
    "a record is forged": (
        forged_record,
        {Fault.FILE_NOT_SEALED: "records/", Fault.ROW_ADDED: "records[0]@100", Fault.RECORD_FORGED: "records[0]@100"},
    ),
    "a record is added to the entry that made its table": (
        lambda lake: smuggled(lake, "records", record(7, 0, **MINE), 0),
        {Fault.FILE_NOT_SEALED: "records/part-mine"},
    ),
    "a record is added to the first signed entry": (
        lambda lake: smuggled(lake, "records", record(7, 0, **MINE), 1),
        {Fault.FILE_NOT_SEALED: "records/part-mine"},
    ),
    "a record is added to a table of which nothing is signed yet": (
        smuggled_into_an_empty_table,
        {Fault.FILE_NOT_SEALED: "superseded/part-mine"},
    ),
    "a commit drops a file": (removed_by_delta, {Fault.ROW_MISSING: "records[0]@42..48"}),
    "the tail is cut off": (cut_off_tail, {Fault.HEAD_MISSING: "rounds version 12"}),
    "an entry of the log is deleted": (
        lambda lake: lake.entry("branches", 5).unlink(),
        {Fault.LOG_GAP: "branches version 5"},
    ),
    "a seal is altered": (altered_seal, {Fault.SEAL_ALTERED: "records version 5"}),
    "a seal is replaced by whoever has the key": (signed_again, {Fault.CHAIN_BROKEN: "rounds version 6"}),
    "the public key is deleted": (
        lambda lake: (lake.folder / "keys" / f"{KEY.name}.json").unlink(),
        {Fault.KEY_UNKNOWN: "version 1"},
    ),
    "a cell writes a record that its round does not know": (
        lambda lake: lake.add(record(0, 200), round_row(0, 200, kind="next_round")),
        {Fault.RECORD_FORGED: "records[0]@200"},
    ),
    "a cell writes another content hash": (
        lambda lake: lake.add(record(0, 200, content_hash="00"), round_row(0, 200)),
        {Fault.CONTENT_ALTERED: "records[0]@200"},
    ),
    "a cell writes two records of one id": (
        lambda lake: lake.add(record(0, 200, logical_id="task-0-0"), round_row(0, 200, logical_id="task-0-0")),
        {Fault.ID_TWICE: "records[0]@0", Fault.OWNER_TWICE: "rounds[0]@0"},
    ),
    "a cell writes a round that follows from no decision": (
        lambda lake: lake.add(
            round_row(0, 200, kind="next_round", cause_lane=1, cause_offset=5, cause_hash=hash_at(1, 4))
        ),
        {Fault.CAUSE_DIFFERS: "rounds[0]@200"},
    ),
    "a cell writes a branch of no record": (
        lambda lake: lake.add(branch(0, 200, 0), round_row(0, 200, kind="next_round")),
        {Fault.BRANCH_FORGED: "branches[0]@200"},
    ),
    "a cell writes a dead letter that its round does not know": (
        lambda lake: lake.add(dead_letter(0, 200), round_row(0, 200, kind="next_round")),
        {Fault.DEAD_LETTER_FORGED: "dead_letters[0]@200"},
    ),
    "a record gives way to none": (given_way, {Fault.SUPERSEDED_ALONE: "superseded[0]@100"}),
}


def test_a_lake_as_it_was_written_is_sound(lake: Lake) -> None:
    """All of it is looked at."""
    report = lake.verify(keys=[KEY.name])
    assert report.is_sound, report.first
    assert report.tables == {"records": 80, "branches": 120, "dead_letters": 80, "rounds": 240}
    assert (report.files, report.seals, report.heads, report.not_sealed) == (48, 48, 1, 0)


def test_a_cause_that_is_what_it_says_is_sound(lake: Lake) -> None:
    """A round may follow on one of another lane."""
    lake.add(round_row(0, 200, kind="next_round", cause_lane=1, cause_offset=5, cause_hash=hash_at(1, 5)))
    assert lake.verify().is_sound


def test_a_cause_that_another_cell_has_yet_to_write_is_no_fault(lake: Lake) -> None:
    """Its message may be decided before its own decision is in the lake."""
    lake.add(round_row(0, 200, kind="next_round", cause_lane=1, cause_offset=150, cause_hash=hash_at(1, 150)))
    assert lake.verify().is_sound


@pytest.mark.parametrize("what", TAMPERING)
def test_what_is_done_to_a_lake_is_found(lake: Lake, what: str) -> None:
    """And the record is named."""
    tamper, expected = TAMPERING[what]
    tamper(lake)
    report = lake.verify()
    assert not report.is_sound
    for fault, where in expected.items():
        assert fault in report.first, report.first
        assert where in report.first[fault].where, report.first[fault]


def test_wherever_a_bit_of_a_file_is_flipped_it_is_told(tmp_path: Path) -> None:
    """Also where Parquet keeps the names of columns, what they hold, and where they are."""
    lake = Lake(tmp_path / "lake", commits=1)
    path = lake.file("records", 1)
    data = path.read_bytes()
    for at in range(7, len(data), FLIPPED_EACH):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        report = lake.verify()
        assert report.first[Fault.FILE_ALTERED].where == f"records/{path.name}", at


@pytest.mark.parametrize(
    "data", [b"nonsense", b"\x1f\x8b\x08\x00nonsense", gzip.compress(b"[1")], ids=["no_gzip", "cut_off", "no_json"]
)
def test_an_archive_of_seals_that_was_spoilt_is_named(lake: Lake, data: bytes) -> None:
    """It is no seal that anybody signed."""
    archive(lake.folder, "rounds")
    (path,) = tables.seals_folder(lake.folder, "rounds").iterdir()
    path.write_bytes(data)
    found = lake.verify().first[Fault.SEAL_ALTERED]
    assert path.name in found.detail


def test_an_entry_of_the_log_that_is_none_is_found(lake: Lake) -> None:
    """As a fault, whether Delta reads it or not."""
    lake.entry("records", 5).write_text('{"add": nonsense "aureon.seal"')
    assert lake.verify().first.keys() & {Fault.SEAL_ALTERED, Fault.LOG_GAP}


def test_a_swapped_key_is_told_by_the_head_and_by_the_key(tmp_path: Path) -> None:
    """A lake that somebody wrote anew, with a key of his own, is sound in itself."""
    lake = Lake(tmp_path / "lake")
    other = lake_writer(tmp_path / "other", signing_key(tmp_path / "state"))
    for start in range(0, 120, 10):
        for lane in LANES:
            other.add(decisions(lane, range(start, start + 10)))
        other.flush()
    other.close()
    assert verify(tmp_path / "other").is_sound
    report = verify(tmp_path / "other", heads=lake.heads[-1:])
    assert report.first.keys() == {Fault.HEAD_MISSING}
    with pytest.raises(RefusedError, match=f"no key {KEY.name} in it"):
        verify(tmp_path / "other", keys=[KEY.name])
    (tmp_path / "other" / "keys" / f"{KEY.name}.json").write_bytes(
        (lake.folder / "keys" / f"{KEY.name}.json").read_bytes()
    )
    assert Fault.KEY_NOT_TRUSTED in verify(tmp_path / "other", keys=[KEY.name]).first


def test_a_key_that_follows_on_the_trusted_one_may_go_on(tmp_path: Path) -> None:
    """After it was rotated."""
    first = signing_key(tmp_path / "state")
    writer = lake_writer(tmp_path / "lake", first)
    writer.add(decisions(0, range(10)))
    writer.flush()
    writer.close()
    rotate(tmp_path / "lake", tmp_path / "state")
    writer = lake_writer(tmp_path / "lake", signing_key(tmp_path / "state"))
    writer.add(decisions(0, range(10, 20)))
    writer.flush()
    writer.close()
    assert verify(tmp_path / "lake", keys=[first.name]).is_sound


def test_payloads_in_the_blob_store_are_looked_at_where_it_is_named(lake: Lake, tmp_path: Path) -> None:
    """Otherwise they are counted."""
    store = BlobStore(str(tmp_path / "blobs"))
    store.create()
    payload = encode({"prompt": "x" * 1000})
    reference = encode(store.put(payload)).decode()
    digest = content_hash("math", "task-0-200", 0, payload, "2")
    lake.add(record(0, 200, payload=reference, content_hash=digest), round_row(0, 200))
    report = lake.verify()
    assert (report.is_sound, report.blobs_skipped) == (True, 1)
    report = lake.verify(blobs=str(tmp_path / "blobs"))
    assert (report.is_sound, report.blobs_skipped, report.blobs) == (True, 0, 1)
    for blob in (tmp_path / "blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o600)
            blob.write_bytes(b"{}")
    report = lake.verify(blobs=str(tmp_path / "blobs"))
    assert report.first[Fault.BLOB_MISSING].where == "records[0]@200"


def test_files_that_were_put_together_hold_what_was_sealed(lake: Lake) -> None:
    """Rows count wherever they are; the file itself nobody has sealed."""
    folder = tables.folder(lake.folder, "rounds")
    DeltaTable(folder).optimize.compact()
    report = lake.verify()
    assert report.faults == {Fault.FILE_NOT_SEALED: 1}
    (path,) = DeltaTable(folder).file_uris()
    rows = pq.read_table(path)
    pq.write_table(rows.filter(pc.not_equal(rows["decision_offset"], 55)), path)
    report = lake.verify()
    assert report.first[Fault.ROW_MISSING].where == "rounds[0]@50..59"
    pq.write_table(pa.concat_tables([rows, rows.slice(7, 1)]), path)
    assert Fault.ROW_TWICE in lake.verify().first


def test_a_lake_is_verified_while_it_is_being_written(tmp_path: Path) -> None:
    """Whatever moment it is."""
    stop = threading.Event()
    writer = lake_writer(tmp_path)

    def write() -> None:
        start = 0
        while not stop.is_set():
            for lane in LANES:
                writer.add(decisions(lane, range(start, start + 10)))
            writer.flush()
            start += 10

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(4):
            report = verify(tmp_path)
            assert report.is_sound, report.first
    finally:
        stop.set()
        thread.join()
        writer.close()


def test_many_files_are_read_by_several_processes(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same result as in one."""
    flip(lake.file("records", 5))
    alone = lake.verify()
    monkeypatch.setattr(verify_run, "FEW_BYTES", 0)
    several = lake.verify()
    assert (several.tables, several.faults, several.first) == (alone.tables, alone.faults, alone.first)


def test_an_empty_lake_is_sound(tmp_path: Path) -> None:
    """There is nothing in it."""
    lake_writer(tmp_path).close()
    report = verify(tmp_path)
    assert report.is_sound
    assert report.seals == 0


def test_of_many_faults_of_a_kind_the_first_are_told_and_all_are_counted() -> None:
    """A file of which all is wrong would fill the memory."""
    report = FileReport()
    for number in range(MAX_FINDINGS + 5):
        report.add(Fault.ROW_ALTERED, str(number))
    assert [finding.where for finding in report.findings] == [str(number) for number in range(MAX_FINDINGS)]
    assert report.faults == {Fault.ROW_ALTERED: MAX_FINDINGS + 5}


def test_each_kind_of_fault_is_explained() -> None:
    """In a line."""
    assert set(FAULTS) == set(Fault)
