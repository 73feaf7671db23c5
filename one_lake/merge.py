"""Merge another lake into this one: what two clusters did apart becomes one dataset.

    records of one id in both ─► the one that the criteria prefer stays, the other goes to `superseded`
    rows that this lake has not ─► added to its tables, sealed, the other lake's head named in the seal

Which rows end up where is a function of the rows and the criteria alone: the order of merges does not count, and one
that is done again, or goes on after it was killed, changes nothing more. As with any commit, `rounds` is the last; the
version under which a table's log holds a lane of a cluster says what was taken.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction
from msgspec import Struct

from connectors.whole_files import ANYBODY, make_once
from one_lake import tables
from one_lake.as_of import moment
from one_lake.criteria import CRITERIA, ROUND_COLUMNS, preference
from one_lake.keys import SigningKey, publish
from one_lake.lanes import application, held_in, taken
from one_lake.maintain import alone, discard_unlogged
from one_lake.query import rows_of, session
from one_lake.sealed_table import Commit, SealedTable, Signer
from one_lake.seals import Link, Merge, Seal, SealedLane, entries, merkle_root
from one_lake.staged import Gathered, StagedFile, cast, removal
from one_lake.verify import FAULTS, verify
from schemas.errors import RefusedError, TryAgainError
from schemas.head import Head
from schemas.one import ALL_TABLES, ROW_HASH, SUPERSEDED, TABLES, arrow_schema

FILE_BYTES = 48 << 20
"""About so large become the files, so that maintenance still puts them together, sorted."""
ROWS_AT_ONCE = 8192
SEALED_ROWS = 100_000
"""Of one lane under one root, about; their hashes are in memory at once."""
MEMORY_LIMIT = "500MB"
TRIES = 50
"""Commits that may be lost to cells that write meanwhile."""
PAUSE_S = 0.2
"""For a cell to commit what it is at."""

Progress = Callable[[str, str], None]
"""Told which table it is at, and what it does there."""

_NAME = "cluster, lane, decision_offset"


class Merged(Struct, kw_only=True):
    """What a merge has done."""

    head: Head
    """Of the other lake."""
    rows: dict[str, int] = {}
    """By table, how many rows were taken."""
    superseded: int = 0
    """Records that gave way."""
    keys: int = 0
    """Public keys that this lake did not have."""


def merge(
    lake_dir: str | Path,
    other_dir: str | Path,
    key: SigningKey,
    *,
    by: Sequence[str] = tuple(CRITERIA),
    progress: Progress = lambda *_: None,
) -> Merged:
    """Merge another lake into one; the other is only read.

    Args:
        lake_dir: the lake that takes the rows; cells may write to it meanwhile.
        other_dir: the lake that they come from.
        key: signs what is committed.
        by: the criteria by which one of two records is kept, the first one first.
        progress: told how far it is.

    Raises:
        RefusedError: one of them is no lake, has rows that nobody can name, or is not sound; or both have rows of one
            name that are not the same. Nothing was changed.
        TryAgainError: another process maintains the lake, there is no room to compare the rows, or cells commit faster
            than a merge can.
        OSError: the lake cannot be written; merged again, it goes on.
    """
    lake, other = Path(lake_dir).absolute(), Path(other_dir).absolute()
    for each in (lake, other):
        if not tables.is_lake(each):
            raise RefusedError(f"no lake at {each}")
    if lake.resolve() == other.resolve():
        raise RefusedError(f"{lake} and {other} are the same lake")
    progress("other lake", "verifying")
    report = verify(other)
    for finding in report.first.values():
        told = f"{finding.where} {finding.detail}".strip()
        raise RefusedError(f"lake {other} is not sound: {FAULTS[finding.fault]} ({told}); `aureon verify` says more")
    if report.head is None:
        raise RefusedError(f"lake {other}: nothing in it is signed, so its rows cannot be told from those of others")
    with alone(lake):
        tables.create(lake, SUPERSEDED)
        publish(lake, key)
        try:
            with contextlib.closing(_Merging(lake, other, key, report.head, tuple(by), progress)) as merging:
                return merging.run()
        except DeltaError as error:
            raise tables.as_os_error(error, lake) from error
        except duckdb.Error as error:
            why = str(error).partition("\n")[0]
            raise TryAgainError(f"lake {lake}: no room to merge now: {why}; merged again, it goes on") from error


def _own_cluster(lake: Path) -> str | None:
    """The cluster whose cells write to a lake: that of the last commit that is none of a merge."""
    found = None
    for entry in entries(lake, "rounds"):
        seal: Seal | None = entry.signed.seal if entry.signed is not None else None
        if seal is not None and seal.lanes and seal.merge is None:
            found = seal.cluster
    return found


class _Merging:
    """One merge of one lake into another."""

    def __init__(
        self, lake: Path, other: Path, key: SigningKey, head: Head, by: tuple[str, ...], progress: Progress
    ) -> None:
        self._lake, self._other = lake, other
        self._by = by
        self._progress = progress
        self._merge = Merge(head=Link(head.version, head.hash), key=head.key, by=",".join(by))
        self._own = _own_cluster(lake)
        verified = moment(other, str(head.version)).bounds
        self._ends = [(cluster, lane, last) for (cluster, lane), last in sorted(verified.items())]
        self._tables = {name: SealedTable(lake, name, Signer(key, "")) for name in tables.present(lake)}
        self._done = Merged(head=head)
        self._db = session(MEMORY_LIMIT)
        self._db.execute("SET threads = 1")

    def close(self) -> None:
        self._db.close()

    def run(self) -> Merged:
        self._look_at_the_other()
        for table in TABLES:
            self._look_at(table)
        self._look_at(SUPERSEDED)
        self._check_named("mine", self._lake)
        self._check_common()
        self._take_keys()
        self._take_records()
        for table in TABLES:
            if table not in ("records", "rounds"):
                self._take(table)
        self._take("rounds")
        return self._done

    # -- what there is -----------------------------------------------------------------------------------------------

    def _look_at_the_other(self) -> None:
        """`theirs_…`: the other lake as it is now, `rounds` first; of it counts what was verified."""
        for table in (*reversed(TABLES), SUPERSEDED):
            rows = rows_of(table, [], differ=False)
            if table in tables.present(self._other):
                opened = tables.open_table(self._other, table)
                rows = rows_of(table, tables.files(self._other, table, opened), differ=tables.differ(opened, table))
            self._db.execute(f"CREATE VIEW theirs_{table} AS {rows}")
        self._ever("theirs")
        self._check_named("theirs", self._other)

    def _look_at(self, table: str) -> None:
        """`mine_…`, as it is now; and `held_…`: by cluster and lane, up to where its log holds theirs."""
        mine = self._tables[table]
        mine.delta.update_incremental()
        rows = rows_of(table, tables.files(self._lake, table, mine.delta), differ=tables.differ(mine.delta, table))
        self._db.execute(f"CREATE OR REPLACE VIEW mine_{table} AS {rows}")
        if table == SUPERSEDED:
            self._ever("mine")
            return
        held = [(cluster, lane, self._held(mine, cluster, lane), end) for cluster, lane, end in self._ends]
        self._db.execute(
            f"CREATE OR REPLACE TEMP TABLE held_{table} (cluster VARCHAR, lane BIGINT, last BIGINT, theirs BIGINT)"
        )
        if held:
            self._db.executemany(f"INSERT INTO held_{table} VALUES (?, ?, ?, ?)", held)  # noqa: S608
        self._db.execute(
            f"CREATE OR REPLACE VIEW new_{table} AS SELECT t.* FROM {_theirs(table)} t JOIN held_{table} h "  # noqa: S608
            "ON h.cluster = t.cluster AND h.lane = t.lane WHERE decision_offset > last AND decision_offset <= theirs"
        )

    def _ever(self, whose: str) -> None:
        """`…_ever`: all records that there were; between the two commits of a merge, one is in both tables."""
        self._db.execute(
            f"CREATE OR REPLACE VIEW {whose}_ever AS "
            f"FROM {whose}_records UNION ALL FROM {whose}_superseded ANTI JOIN {whose}_records USING ({_NAME})"
        )

    def _held(self, table: SealedTable, cluster: str, lane: int) -> int:
        if cluster == self._own:
            return held_in(table.delta, cluster, lane)
        return tables.transaction_version(table.delta, taken(cluster, lane))

    def _application(self, cluster: str, lane: int) -> str:
        return application(lane) if cluster == self._own else taken(cluster, lane)

    def _check_named(self, whose: str, lake: Path) -> None:
        for table in TABLES:
            count = self._count(f"{whose}_{table} WHERE {ROW_HASH} IS NULL OR cluster IS NULL")
            if count:
                raise RefusedError(
                    f"lake {lake}: {count:,} rows of `{table}` are from before commits were signed, and have no "
                    "cluster and no hash: nothing tells them from rows of another lake"
                )

    def _count(self, rows: str) -> int:
        ((count,),) = self._db.execute(f"SELECT count(*) FROM {rows}").fetchall()  # noqa: S608
        return int(count)

    def _check_common(self) -> None:
        """What both lakes have of a lane has to be the same."""
        for table in TABLES:
            index = ', "index"' if "index" in ALL_TABLES[table].__struct_fields__ else ""
            mine = "mine_ever" if table == "records" else f"mine_{table}"
            common = (
                f"SELECT t.*, coalesce({ROW_HASH}, '') AS told FROM {{}} t JOIN held_{table} h "  # noqa: S608
                "ON h.cluster = t.cluster AND h.lane = t.lane WHERE decision_offset <= least(last, theirs)"
            )
            sums = [
                self._db.execute(
                    f"SELECT count(*), sum(hash({_NAME}{index}, told)) FROM ({common.format(rows)})"  # noqa: S608
                ).fetchall()
                for rows in (mine, _theirs(table))
            ]
            if sums[0] == sums[1]:
                continue
            ((cluster, lane, offset),) = self._db.execute(
                f"SELECT {_NAME} FROM ({common.format(mine)}) a FULL JOIN ({common.format(_theirs(table))}) b "  # noqa: S608
                f"USING ({_NAME}{index}) WHERE a.told IS DISTINCT FROM b.told ORDER BY ALL LIMIT 1"
            ).fetchall()
            raise RefusedError(
                f"{table}[{lane}]@{offset} of the cluster {cluster} is one thing in {self._lake} and another in "
                f"{self._other}: two logs call themselves that cluster, or the lakes had different quality gates"
            )

    def _take_keys(self) -> None:
        folder = tables.keys_folder(self._lake)
        for path in sorted(tables.keys_folder(self._other).glob("*.json")):
            if not (folder / path.name).exists():
                make_once(folder / path.name, path.read_bytes(), ANYBODY)
                self._done.keys += 1

    # -- records -----------------------------------------------------------------------------------------------------

    def _take_records(self) -> None:
        for _ in range(TRIES):
            self._look_at("records")
            self._look_at(SUPERSEDED)
            self._look_at("rounds")
            self._progress("records", "comparing")
            if not self._rank():
                time.sleep(PAUSE_S)
                continue
            self._supersede()
            if self._commit_records():
                return
        raise TryAgainError(
            f"lake {self._lake}: cells commit faster than {TRIES} tries to merge; stop them meanwhile. What was taken "
            "stays, and the next merge goes on"
        )

    def _rank(self) -> bool:
        """`losing`: the names of the records that give way. False if a cell has yet to commit the decision of one.

        One that a merge which was killed has superseded already comes last, whatever the criteria are now.
        """
        columns = ", ".join(ROUND_COLUMNS)
        self._db.execute(
            "CREATE OR REPLACE TEMP TABLE contested AS SELECT topic, logical_id FROM ("
            "SELECT topic, logical_id FROM mine_records UNION ALL SELECT topic, logical_id FROM new_records) "
            "GROUP BY ALL HAVING count(*) > 1"
        )
        self._db.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE ranked AS
            WITH candidates AS MATERIALIZED (
                FROM (FROM mine_records UNION ALL FROM new_records) SEMI JOIN contested USING (topic, logical_id)
            ),
            decisions AS (
                SELECT {_NAME}, {columns} FROM mine_rounds SEMI JOIN candidates USING ({_NAME})
                UNION SELECT {_NAME}, {columns} FROM theirs_rounds SEMI JOIN candidates USING ({_NAME})
            )
            SELECT
                r.cluster, r.lane, r.decision_offset, d.lane IS NULL AS is_early,
                row_number() OVER (
                    PARTITION BY r.topic, r.logical_id ORDER BY g.lane IS NOT NULL, {preference(self._by)}
                ) AS place
            FROM candidates r
            LEFT JOIN decisions d
            ON d.cluster = r.cluster AND d.lane = r.lane AND d.decision_offset = r.decision_offset
            LEFT JOIN (SELECT {_NAME} FROM mine_superseded) g
            ON g.cluster = r.cluster AND g.lane = r.lane AND g.decision_offset = r.decision_offset
            """  # noqa: S608 - names and expressions of this package
        )
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE losing AS SELECT {_NAME} FROM ranked WHERE place > 1")  # noqa: S608
        return not self._count("ranked WHERE is_early")

    def _supersede(self) -> None:
        """Put the records that give way, as they are, where they stay."""
        losing = f"FROM (FROM mine_records UNION ALL FROM new_records) SEMI JOIN losing USING ({_NAME})"
        table = self._tables[SUPERSEDED]
        with self._staging(table) as staged:
            actions = self._write(SUPERSEDED, f"{losing} ANTI JOIN mine_superseded USING ({_NAME})", staged)
            if actions:
                self._progress(SUPERSEDED, "committing")
                commit = Commit(actions=actions, files=staged, merge=self._merge)
                while table.try_commit(commit, lambda: None) is None:
                    continue
                self._done.superseded += sum(file.rows for file in staged)

    def _commit_records(self) -> bool:
        """Take those that stay, and take out those that give way, in one commit; False if cells were in the way."""
        table = self._tables["records"]
        losers = self._files_with_losers()
        if losers and table.allow_removal():
            return False  # which made a version of its own
        with self._staging(table) as staged:
            lanes, rows = self._seal("records")
            actions = self._write("records", f"FROM new_records ANTI JOIN losing USING ({_NAME})", staged)
            removed = []
            for path in losers:
                removed.append(path.name)
                actions.append(removal(path.name, path.stat().st_size, data_change=True))
                rest = rows_of("records", [str(path)], differ=tables.differ(table.delta, "records"))
                actions += self._write("records", f"FROM ({rest}) ANTI JOIN losing USING ({_NAME})", staged)
            if not actions and not lanes:
                return True
            self._progress("records", "committing")
            version = table.delta.version()
            commit = self._commit("records", actions, staged, lanes)
            for _ in range(TRIES):
                if table.try_commit(commit, lambda: None) is not None:
                    self._done.rows["records"] = rows
                    return True
                if not self._is_still_right(version, removed):
                    return False
                version = table.delta.version()
        return False

    def _files_with_losers(self) -> list[Path]:
        """The files of `records` that hold some that give way."""
        files = tables.files(self._lake, "records", self._tables["records"].delta)
        if not files or not self._count("losing"):
            return []
        rows = self._db.execute(
            "SELECT DISTINCT filename FROM read_parquet($files, filename = true, union_by_name = true) "  # noqa: S608
            f"SEMI JOIN losing USING ({_NAME}) ORDER BY ALL",
            {"files": files},
        ).fetchall()
        return [Path(name) for (name,) in rows]

    def _is_still_right(self, version: int, removed: list[str]) -> bool:
        """Whether what others have committed since a version contests nothing more."""
        opened = self._tables["records"].delta
        live = tables.files(self._lake, "records", opened)
        if not set(removed) <= {Path(path).name for path in live}:
            return False
        added = {n for e in entries(self._lake, "records", version) for n in e.added}
        files = [path for path in live if Path(path).name in added]
        rows = rows_of("records", files, differ=tables.differ(opened, "records"))
        both = f"({rows}) SEMI JOIN (FROM mine_records UNION ALL FROM new_records) USING (topic, logical_id)"
        return not self._count(both)

    # -- the other tables --------------------------------------------------------------------------------------------

    def _take(self, name: str) -> None:
        """Add the rows of a table; `rounds` seals the newest seals of the others, also where it has none itself."""
        table = self._tables[name]
        for _ in range(TRIES):
            self._look_at(name)
            with self._staging(table) as staged:
                lanes, rows = self._seal(name)
                if not rows and not (name == "rounds" and self._is_untold()):
                    return
                actions = self._write(name, f"FROM new_{name}", staged)
                self._progress(name, "committing")
                commit = self._commit(name, actions, staged, lanes)
                if table.try_commit(commit, lambda: None) is not None:
                    self._done.rows[name] = rows
                    return
        raise TryAgainError(f"lake {self._lake}: cells commit faster than {TRIES} tries to merge; stop them meanwhile")

    def _is_untold(self) -> bool:
        """Whether `rounds` has yet to name the newest seal of `superseded`."""
        table = self._tables[SUPERSEDED]
        table.delta.update_incremental()
        table.find_tip()
        told = None
        for entry in entries(self._lake, "rounds"):
            if entry.signed is not None:
                told = entry.signed.seal.others.get(SUPERSEDED, told)
        return table.tip != told

    def _commit(
        self,
        name: str,
        actions: Sequence[AddAction | RemoveAction],
        staged: Sequence[StagedFile],
        lanes: Sequence[SealedLane],
    ) -> Commit:
        others: dict[str, Link] = {}
        if name == "rounds":
            for table in self._tables.values():
                if table.name != name:
                    table.delta.update_incremental()
                    table.find_tip()
                    if table.tip is not None:
                        others[table.name] = table.tip
        last: dict[str, int] = {}
        for lane in lanes:
            last[self._application(lane.cluster, lane.lane)] = lane.last
        return Commit(
            actions=actions, files=staged, lanes=tuple(lanes), others=others, transactions=last, merge=self._merge
        )

    # -- rows --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _staging(self, table: SealedTable) -> Iterator[list[StagedFile]]:
        """Files that are gone afterwards, but for those that were logged."""
        staged: list[StagedFile] = []
        try:
            yield staged
        finally:
            if any(file.is_held for file in staged):
                discard_unlogged(table, staged)

    def _write(self, name: str, rows: str, staged: list[StagedFile]) -> list[AddAction | RemoveAction]:
        """Write rows into new files of a table, those of one lane in order."""
        schema = arrow_schema(ALL_TABLES[name])
        columns = ", ".join(f'"{column}"' for column in schema.names)
        order = _NAME + (', "index"' if "index" in schema.names else "")
        actions: list[AddAction | RemoveAction] = []
        written: Gathered | None = None
        reader = self._db.sql(f"SELECT {columns} FROM ({rows}) ORDER BY {order}").to_arrow_reader(ROWS_AT_ONCE)  # noqa: S608
        for batch in reader:
            if not batch.num_rows:
                continue
            if written is None:
                staged.append(StagedFile(tables.folder(self._lake, name), schema))
                written = Gathered(staged[-1], data_change=True)
            written.take(cast(batch, schema))
            if written.file.path.stat().st_size >= FILE_BYTES:
                actions.append(written.end())
                written = None
        if written is not None:
            actions.append(written.end())
        return actions

    def _seal(self, name: str) -> tuple[list[SealedLane], int]:
        """Seal all rows that a table takes, also those that went to `superseded`; returns how many they are, too."""
        index = ', "index"' if "index" in ALL_TABLES[name].__struct_fields__ else ""
        rows = self._db.sql(
            f"SELECT cluster, lane, decision_offset, unhex({ROW_HASH}) AS digest FROM new_{name} "  # noqa: S608
            f"ORDER BY cluster, lane, decision_offset{index}"
        )
        lanes: list[SealedLane] = []
        gathered = _Lane("", -1)
        count = 0
        for batch in rows.to_arrow_reader(ROWS_AT_ONCE):
            count += batch.num_rows
            numbers, offsets = (np.from_dlpack(batch[i]).tolist() for i in ("lane", "decision_offset"))
            of_batch = zip(batch["cluster"].to_pylist(), numbers, offsets, batch["digest"].to_pylist(), strict=True)
            for cluster, lane, offset, digest in of_batch:
                if not gathered.takes(cluster, lane, offset):
                    lanes += gathered.end()
                    gathered = _Lane(cluster, lane)
                gathered.add(offset, digest)
        return [*lanes, *gathered.end()], count


class _Lane:
    """Rows of a lane that go under one root."""

    def __init__(self, cluster: str, lane: int) -> None:
        self._place = cluster, lane
        self._offsets: tuple[int, int] | None = None
        self._hashes: list[bytes] = []

    def takes(self, cluster: str, lane: int, offset: int) -> bool:
        is_full = len(self._hashes) >= SEALED_ROWS and self._offsets is not None and offset > self._offsets[1]
        return (cluster, lane) == self._place and not is_full

    def add(self, offset: int, digest: bytes) -> None:
        self._offsets = (self._offsets[0] if self._offsets is not None else offset, offset)
        self._hashes.append(digest)

    def end(self) -> list[SealedLane]:
        if self._offsets is None:
            return []
        cluster, lane = self._place
        return [SealedLane(lane, *self._offsets, len(self._hashes), merkle_root(self._hashes).hex(), cluster)]


def _theirs(table: str) -> str:
    """All rows that the other lake ever had in a table."""
    return "theirs_ever" if table == "records" else f"theirs_{table}"
