"""What `aureon demo` shows once all has ended."""

from pathlib import Path

import pytest

from flows.commands.demo_report import AgreementFigures, FamilyFigures, Result, print_report, queries

RESULT = Result(
    tasks=3,
    converged=2,
    forced=1,
    dead=1,
    right=1,
    branches=0,
    branches_converged=0,
    decisions=4,
    calls=12,
    ran_s=0.0,
    by_rounds={1: 1, 3: 1},
    families=(
        FamilyFigures(
            family="f",
            topic="math",
            tasks=3,
            unforced=1,
            unforced_right=1,
            forced=1,
            forced_right=0,
            dead=1,
            more_rounds=1,
        ),
    ),
    agreement=(AgreementFigures(agreeing=2, candidates=3, tasks=2, right=1),),
    dead_letters={"no_answer": 1},
    example_parent="it's",
)


def test_the_report_says_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a demo without branches that took no time."""
    print_report(RESULT, Path("a lake"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "Of the tasks 2 converged (1 forced), 1 are dead letters; 1 of the converged (50.0 %) are right" in shown
    assert "Rounds to convergence: 1 after 1, 1 after 3." in shown
    assert "f math 3 33.3 % 100.0 % 1 0.0 % 1 33.3 %" in shown
    assert "2 of 3 2 50.0 %" in shown
    assert "no_answer 1" in shown
    assert "--lake 'a lake'" in shown


def test_an_id_with_a_quote_does_not_spoil_the_query() -> None:
    """It is the users' to choose."""
    assert "lineage('it''s')" in queries(RESULT)[2]
