"""Two lakes that went on apart become one."""

import importlib
import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import one_lake
from one_lake import tables
from one_lake.criteria import CRITERIA, read_criteria
from one_lake.maintain import maintain
from one_lake.merge import Merged, merge
from one_lake.verify import Fault, verify
from one_lake.writer import LakeWriter
from schemas.errors import RefusedError, TryAgainError
from schemas.one import ALL_TABLES
from tests.one_lake.lake_data import round_row
from tests.one_lake.lakes_apart import KEYS, MERGING, converged, died, write

merging = importlib.import_module("one_lake.merge")


def rows_of(lake: Path) -> dict[str, list[str]]:
    """All rows of a lake by table."""
    with one_lake.connect(lake) as connection:
        return {
            table: [
                row
                for (row,) in connection.sql(f"SELECT t::VARCHAR FROM stored.{table} t ORDER BY ALL").fetchall()  # noqa: S608
            ]
            for table in ALL_TABLES
        }


def answers(lake: Path, as_of: str | None = None) -> list[tuple[Any, ...]]:
    """The records, and those that gave way."""
    with one_lake.connect(lake, as_of=as_of) as connection:
        return connection.sql(
            "SELECT logical_id, answer, true FROM one "
            "UNION ALL SELECT logical_id, answer, false FROM superseded ORDER BY 1, 3"
        ).fetchall()


def test_what_only_one_of_them_has_is_in_both_afterwards(tmp_path: Path) -> None:
    """With all that belongs to it; and the lake is sound, also for whoever trusts the key that merged."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x"), died("a", 1, "y"))
    other = write(tmp_path / "other", "b", converged("b", 0, "z"), died("b", 1, "w"))
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    done = merge(one, other, MERGING)
    assert done.rows == {"records": 1, "branches": 1, "dead_letters": 1, "rounds": 2}
    assert (done.superseded, done.keys, done.head) == (0, 1, verify(other).head)
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before
    assert answers(one) == [("x", "2", True), ("z", "2", True)]
    report = verify(one, keys=[MERGING.name, KEYS["a"].name])
    assert report.is_sound, report.first
    assert report.tables == {"superseded": 0, "records": 2, "branches": 2, "dead_letters": 2, "rounds": 4}


def test_of_two_records_of_an_id_one_stays_and_the_other_keeps_its_story(tmp_path: Path) -> None:
    """Whichever lake takes it; `conflicts` tells how they compare."""
    for number, (first, second) in enumerate(itertools.permutations("ab")):
        lakes = {
            "a": write(
                tmp_path / f"{number}a",
                "a",
                converged("a", 0, "x", answer="1", evidence="self"),
                converged("a", 1, "y"),
            ),
            "b": write(
                tmp_path / f"{number}b", "b", converged("b", 0, "x", answer="2", evidence="verifier", confidence=0.99)
            ),
        }
        merged = lakes[first]
        assert merge(merged, lakes[second], MERGING).superseded == 1
        assert answers(merged) == [("x", "1", False), ("x", "2", True), ("y", "2", True)]
        assert verify(merged).is_sound, verify(merged).first
        with one_lake.connect(merged) as connection:
            told = connection.sql("SELECT kept, lost, of_kept.evidence, of_lost.evidence FROM conflicts").fetchall()
        assert told == [("2", "1", 3, 1)]


WORSE: dict[str, dict[str, Any]] = {
    "supervision": {"flags": ["it is flagged"]},
    "evidence": {"evidence": "self"},
    "weight": {"effective_votes": 0.5},
    "score": {"score": 0.1},
    "freshness": {"converged_at": 1_600_000_000_000_000, "started_at": 1_600_000_000_000_000},
}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_each_criterion_decides_when_it_comes_first(tmp_path: Path, criterion: str) -> None:
    """Also where all others speak against it."""
    better = {k: v for name, changes in WORSE.items() if name != criterion for k, v in changes.items()}
    one = write(tmp_path / "one", "a", converged("a", 0, "x", answer="good", **({"effective_votes": 2.0} | better)))
    other = write(
        tmp_path / "other", "b", converged("b", 0, "x", answer="bad", **({"effective_votes": 2.0} | WORSE[criterion]))
    )
    merge(one, other, MERGING, by=(criterion, *(name for name in CRITERIA if name != criterion)))
    assert answers(one) == [("x", "bad", False), ("x", "good", True)]


def test_a_forced_record_and_one_that_its_verifier_refused_give_way(tmp_path: Path) -> None:
    """The kind of evidence alone does not tell that it speaks against the answer."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x", answer="f", forced=True), converged("a", 1, "y"))
    refused = converged("b", 1, "y", answer="r", evidence="verifier", confidence=0.01)
    other = write(tmp_path / "other", "b", converged("b", 0, "x", answer="c"), refused)
    merge(one, other, MERGING)
    assert [(name, answer) for name, answer, stands in answers(one) if stands] == [("x", "c"), ("y", "2")]


def test_merged_again_nothing_changes_and_what_came_since_is_taken(tmp_path: Path) -> None:
    """No commit at all, where there is nothing new."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x", answer="1"))
    other = write(tmp_path / "other", "b", converged("b", 0, "x", answer="2", score=0.9))
    merge(one, other, MERGING)
    versions = {table: tables.open_table(one, table).version() for table in ALL_TABLES}
    assert merge(one, other, MERGING).rows == dict.fromkeys((), 0)
    assert {table: tables.open_table(one, table).version() for table in ALL_TABLES} == versions
    write(one, "a", converged("a", 1, "p"))
    write(other, "b", converged("b", 1, "q"), converged("b", 2, "p", score=0.9, answer="3"))
    done = merge(one, other, MERGING)
    assert (done.rows["records"], done.superseded) == (2, 1)
    assert answers(one) == [("p", "2", False), ("p", "3", True), ("q", "2", True), ("x", "1", False), ("x", "2", True)]
    assert verify(one).is_sound, verify(one).first


def test_cells_go_on_after_a_merge_and_an_id_that_both_answered_is_settled_by_the_next(tmp_path: Path) -> None:
    """A lake's own offsets are none of the other cluster's; an old time of the lake is as it was."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x", answer="1"))
    other = write(tmp_path / "other", "b", converged("b", 0, "x", answer="2", score=0.9), converged("b", 1, "y"))
    merge(one, other, MERGING)
    write(one, "a", converged("a", 1, "y", answer="mine", score=0.99))
    assert set(verify(one).faults) == {Fault.ID_TWICE}
    assert merge(one, other, MERGING).superseded == 1
    assert answers(one)[-2:] == [("y", "2", False), ("y", "mine", True)]
    assert verify(one).is_sound, verify(one).first
    assert answers(one, as_of="1") == [("x", "1", True)]
    assert verify(one, as_of="1").is_sound, verify(one, as_of="1").first
    assert verify(one, as_of="2").is_sound, verify(one, as_of="2").first


def test_maintenance_and_a_merge_go_together(tmp_path: Path) -> None:
    """Rows are put together, whosoever they are; what is superseded stays so."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x", answer="1"), converged("a", 1, "y"))
    other = write(tmp_path / "other", "b", converged("b", 0, "x", answer="2", score=0.9), converged("b", 1, "z"))
    maintain(other, KEYS["b"])
    merge(one, other, MERGING)
    before = rows_of(one)
    done = maintain(one, KEYS["a"])
    assert {d.table: d.files for d in done}["records"] == 1
    assert rows_of(one) == before
    assert verify(one).is_sound, verify(one).first


def test_an_owner_of_another_cluster_is_none_of_this_one(tmp_path: Path) -> None:
    """The index of a lane's ids is a function of its own log."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x"))
    merge(one, write(tmp_path / "other", "b", converged("b", 0, "z"), converged("b", 5, "w")), MERGING)
    writer = LakeWriter(one, KEYS["a"], "a")
    assert writer.version(0) == 0
    assert [owner.logical_id for batch in writer.owners(0) for owner in batch] == ["x"]
    writer.close()


def test_of_one_cluster_what_is_ahead_is_taken_and_what_differs_refused(tmp_path: Path) -> None:
    """A copy that went on; and its cell goes on where the copy was."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x"))
    copy = shutil.copytree(one, tmp_path / "copy")
    write(copy, "a", converged("a", 1, "y"))
    assert merge(one, copy, MERGING).rows["rounds"] == 1
    write(one, "a", converged("a", 1, "y"), converged("a", 2, "z"))
    assert [name for name, _, _ in answers(one)] == ["x", "y", "z"]
    assert verify(one).is_sound, verify(one).first
    write(copy, "a", converged("a", 2, "other"))
    with pytest.raises(RefusedError, match=r"records\[0\]@2 of the cluster a is one thing in"):
        merge(one, copy, MERGING)


def test_a_cell_goes_on_in_a_new_lake_that_took_its_rows(tmp_path: Path) -> None:
    """It adds none of them again; and another merge from the old lake finds them there."""
    old = write(tmp_path / "old", "a", converged("a", 0, "x"), converged("a", 1, "y"))
    new = tmp_path / "new"
    tables.create(new)
    merge(new, old, MERGING)
    write(new, "a", [*converged("a", 0, "x"), *converged("a", 1, "y"), *converged("a", 2, "z")])
    assert [name for name, _, _ in answers(new)] == ["x", "y", "z"]
    assert merge(new, old, MERGING).rows == {}
    assert verify(new).is_sound, verify(new).first


def test_what_cannot_be_merged_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    """No lake, the same one, one that is not sound, rows that nobody can name, criteria that are none."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x"))
    other = write(tmp_path / "other", "b", converged("b", 0, "y"))
    before = rows_of(one)

    def refused(what: str, act: Callable[[], Merged | Sequence[str]]) -> None:
        with pytest.raises(RefusedError, match=what):
            act()

    refused("no lake at", lambda: merge(one, tmp_path / "none", MERGING))
    refused("are the same lake", lambda: merge(one, one, MERGING))
    refused("'age' is no criterion; there are: supervision", lambda: read_criteria("score,age"))
    refused("names a criterion twice", lambda: read_criteria("score,score"))
    next(tables.folder(other, "records").glob("*.parquet")).unlink()
    refused(r"is not sound: .* a file is gone|is not sound: a file is gone", lambda: merge(one, other, MERGING))
    assert rows_of(one) == before


@pytest.mark.parametrize("step", ["superseded", "records", "branches", "dead_letters", "rounds"])
def test_one_that_was_killed_goes_on(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any of its commits; the lake is sound then, too, and what it comes to is the same."""

    def lakes(name: str) -> tuple[Path, Path]:
        one = write(
            tmp_path / f"{name}-one", "a", converged("a", 0, "x", answer="1"), converged("a", 1, "y", score=0.9)
        )
        other = [converged("b", 0, "x", score=0.9), converged("b", 1, "y"), died("b", 2, "z")]
        return one, write(tmp_path / f"{name}-other", "b", *other)

    whole = lakes("whole")
    merge(*whole, MERGING)
    cut_off = lakes("cut")
    real = one_lake.sealed_table.SealedTable.try_commit

    def dying(self: Any, commit: Any, on_failure: Any) -> Any:
        if self.name == step and commit.merge is not None:
            raise KeyboardInterrupt
        return real(self, commit, on_failure)

    with monkeypatch.context() as patch:
        patch.setattr(one_lake.sealed_table.SealedTable, "try_commit", dying)
        with pytest.raises(KeyboardInterrupt):
            merge(*cut_off, MERGING)
    assert verify(cut_off[0]).is_sound, verify(cut_off[0]).first
    with one_lake.connect(cut_off[0]) as lake:
        assert lake.sql("SELECT * FROM conflicts WHERE of_kept = of_lost").fetchall() == []
    merge(*cut_off, MERGING)
    assert rows_of(cut_off[0]) == rows_of(whole[0])
    assert verify(cut_off[0]).is_sound, verify(cut_off[0]).first


@pytest.mark.parametrize("both_had_it", [False, True])
def test_one_that_was_killed_goes_on_by_other_criteria(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, both_had_it: bool
) -> None:
    """What is superseded already has given way, and no record stands in both tables."""
    mine = converged("a", 0, "x", answer="fresh", converged_at=2)
    one = write(tmp_path / "one", "a", mine)
    other = write(tmp_path / "other", "b", converged("b", 0, "x", answer="good", score=0.9, converged_at=1))
    if both_had_it:
        merge(other, one, MERGING, by=("score",))
    with monkeypatch.context() as patch:
        patch.setattr(merging._Merging, "_commit_records", _killed)
        with pytest.raises(KeyboardInterrupt):
            merge(one, other, MERGING, by=("score",))
    merge(one, other, MERGING, by=("freshness",))
    assert answers(one) == [("x", "fresh", False), ("x", "good", True)]
    assert verify(one).is_sound, verify(one).first
    assert merge(one, other, MERGING).superseded == 0


def test_a_record_that_gave_way_in_one_that_was_killed_stays_until_another_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lake that has none of the id is merged first."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x", answer="mine"))
    other = write(tmp_path / "other", "b", converged("b", 0, "x", answer="good", score=0.9))
    third = write(tmp_path / "third", "c", converged("c", 0, "y"))
    with monkeypatch.context() as patch:
        patch.setattr(merging._Merging, "_commit_records", _killed)
        with pytest.raises(KeyboardInterrupt):
            merge(one, other, MERGING)
    merge(one, third, MERGING)
    with one_lake.connect(one) as connection:
        assert connection.sql("SELECT answer FROM one WHERE logical_id = 'x'").fetchall() == [("mine",)]
    merge(one, other, MERGING)
    assert verify(one).is_sound, verify(one).first


@pytest.mark.parametrize("lost", ["mine", "theirs"])
def test_a_lake_in_which_one_was_killed_is_merged_into_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Each of its records once, though one is in two of its tables; what it had still to take is none of it."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x", answer="mine", score=0.2 if lost == "mine" else 0.8))
    other = write(tmp_path / "other", "b", converged("b", 0, "x", answer="theirs", score=0.5))
    third = write(tmp_path / "third", "c", converged("c", 0, "y"))
    with monkeypatch.context() as patch:
        patch.setattr(merging._Merging, "_commit_records", _killed)
        with pytest.raises(KeyboardInterrupt):
            merge(one, other, MERGING)
    merge(third, one, MERGING)
    assert answers(third) == [("x", "mine", True), ("y", "2", True)]
    assert verify(third).is_sound, verify(third).first


def _killed(_merging: object) -> None:
    raise KeyboardInterrupt


def test_without_room_to_compare_the_lake_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next time it may go."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x"))
    other = write(tmp_path / "other", "b", converged("b", 0, "y"))
    before = rows_of(one)
    with monkeypatch.context() as patch:
        patch.setattr(merging, "MEMORY_LIMIT", "1KB")
        with pytest.raises(TryAgainError, match=r"no room to merge now: .*emory"):
            merge(one, other, MERGING)
    assert rows_of(one) == before
    assert merge(one, other, MERGING).rows["records"] == 1


def test_a_lake_in_which_nothing_is_signed_is_refused(tmp_path: Path) -> None:
    """Its rows cannot be told from those of others."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x"))
    tables.create(tmp_path / "other")
    with pytest.raises(RefusedError, match=r"^lake .*other: nothing in it is signed, so its rows cannot be told"):
        merge(one, tmp_path / "other", MERGING)


def test_what_a_cell_commits_during_a_merge_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another id it changes nothing, and of the same one the merge begins again; the lake is sound after both."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x"))
    other = write(tmp_path / "other", "b", converged("b", 0, "y"), converged("b", 1, "z"))
    real = one_lake.sealed_table.SealedTable.try_commit
    rivals = [("w", 1), ("z", 2)]
    begun: list[str] = []

    def overtaken(self: Any, commit: Any, on_failure: Any) -> Any:
        if self.name == "records" and commit.merge is not None:
            begun.append(self.name)
            if rivals:
                name, offset = rivals.pop(0)
                write(one, "a", converged("a", offset, name, answer="3", score=0.1))
        return real(self, commit, on_failure)

    monkeypatch.setattr(one_lake.sealed_table.SealedTable, "try_commit", overtaken)
    done = merge(one, other, MERGING)
    assert (done.rows["records"], done.superseded) == (2, 1)
    assert answers(one) == [("w", "3", True), ("x", "2", True), ("y", "2", True), ("z", "3", False), ("z", "2", True)]
    assert verify(one).is_sound, verify(one).first
    assert len(begun) > 2


def test_what_comes_to_the_other_lake_after_it_was_verified_is_left_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head that the commits name is that of what they take."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x"))
    other = write(tmp_path / "other", "b", converged("b", 0, "y"))
    real = merging.verify

    def overtaken(lake: Path) -> Any:
        report = real(lake)
        write(lake, "b", [*converged("b", 1, "z"), *died("b", 2, "w"), *converged("b", 0, "v", lane=1)])
        return report

    with monkeypatch.context() as patch:
        patch.setattr(merging, "verify", overtaken)
        done = merge(one, other, MERGING)
    assert (done.head.version, done.rows) == (1, {"records": 1, "branches": 1, "rounds": 1})
    assert answers(one) == [("x", "2", True), ("y", "2", True)]
    done = merge(one, other, MERGING)
    assert (done.head.version, done.rows["rounds"]) == (2, 3)
    assert verify(one).is_sound, verify(one).first


@pytest.mark.parametrize("file_bytes, files", [(1, 3), (1 << 30, 1)])
def test_rows_of_any_size_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_bytes: int, files: int
) -> None:
    """Batch by batch, into one file or into several."""
    monkeypatch.setattr(merging, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(merging, "FILE_BYTES", file_bytes)
    one = write(tmp_path / "one", "a", converged("a", 0, "x"))
    names = [f"y{number}" for number in range(3)]
    other = write(
        tmp_path / "other", "b", [row for offset, name in enumerate(names) for row in converged("b", offset, name)]
    )
    merge(one, other, MERGING)
    assert len(tables.files(one, "records", tables.open_table(one, "records"))) == 1 + files
    with one_lake.connect(one) as lake:
        assert lake.sql("SELECT count(*) FROM one").fetchall() == [(4,)]
    assert verify(one).is_sound, verify(one).first


def test_cells_that_commit_faster_than_a_merge_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken stays, and the next merge goes on."""
    one = write(tmp_path / "one", "a", converged("a", 0, "x"))
    other = write(tmp_path / "other", "b", converged("b", 0, "y"))
    real = one_lake.sealed_table.SealedTable.try_commit
    monkeypatch.setattr(merging, "TRIES", 2)
    monkeypatch.setattr(merging, "PAUSE_S", 0.0)
    for step in ("records", "rounds"):
        with monkeypatch.context() as patch:
            patch.setattr(
                one_lake.sealed_table.SealedTable,
                "try_commit",
                lambda self, commit, fail, step=step: None if self.name == step else real(self, commit, fail),
            )
            if step == "records":
                patch.setattr(merging._Merging, "_is_still_right", lambda *_: False)
            with pytest.raises(TryAgainError, match="cells commit faster than 2 tries to merge"):
                merge(one, other, MERGING)
    merge(one, other, MERGING)
    assert answers(one) == [("x", "2", True), ("y", "2", True)]
    assert verify(one).is_sound, verify(one).first


# -- any two histories -----------------------------------------------------------------------------------------------

_OUTCOMES = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            "answer": st.sampled_from(["1", "2"]),
            "score": st.sampled_from([0.5, 0.75]),
            "forced": st.booleans(),
            "evidence": st.sampled_from(["verifier", "cross-model", "self"]),
            "effective_votes": st.sampled_from([1.0, 2.0]),
        }
    ),
)
_HISTORIES = st.lists(
    st.tuples(st.sampled_from("pqrst"), st.integers(0, 1), _OUTCOMES), max_size=6, unique_by=lambda h: h[0]
)


def _written(lake: Path, cluster: str, history: Sequence[tuple[str, int, dict[str, Any] | None]]) -> Path:
    commits = [
        died(cluster, offset, name, lane) if outcome is None else converged(cluster, offset, name, lane, **outcome)
        for offset, (name, lane, outcome) in enumerate(history)
    ]
    return write(lake, cluster, *(commits or [[round_row(0, 0, kind="moved", cluster=cluster, introduces=False)]]))


@pytest.mark.timeout(600)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories=st.tuples(_HISTORIES, _HISTORIES, _HISTORIES), by=st.permutations(list(CRITERIA)))
def test_any_histories_come_to_the_same_lake_whatever_the_order(
    histories: tuple[Any, ...], by: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Three lakes, in all orders, twice: the same rows in the same tables, and none lost."""
    base = tmp_path_factory.mktemp("lakes")
    lakes = {c: _written(base / c, c, history) for c, history in zip("abc", histories, strict=True)}
    outcomes = []
    for order in ("abcbc", "cba"):
        merged = shutil.copytree(lakes[order[0]], base / order)
        for other in order[1:]:
            merge(merged, lakes[other], MERGING, by=by)
        outcomes.append(rows_of(merged))
        assert verify(merged).is_sound, verify(merged).first
    # c into b, and both into a
    pair = shutil.copytree(lakes["b"], base / "bc")
    merge(pair, lakes["c"], MERGING, by=by)
    whole = shutil.copytree(lakes["a"], base / "a-bc")
    merge(whole, pair, MERGING, by=by)
    outcomes.append(rows_of(whole))
    assert verify(whole).is_sound, verify(whole).first
    assert all(outcome == outcomes[0] for outcome in outcomes)
    held = [rows_of(lake) for lake in lakes.values()]
    for table in ("branches", "dead_letters", "rounds"):
        assert outcomes[0][table] == sorted(itertools.chain.from_iterable(rows[table] for rows in held))
    ever = sorted([*outcomes[0]["records"], *outcomes[0]["superseded"]])
    assert ever == sorted(itertools.chain.from_iterable(rows["records"] for rows in held))
    shutil.rmtree(base)
