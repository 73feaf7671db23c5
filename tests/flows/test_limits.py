"""What bounds a task on a real cell: its budget over kills and starts, and the order to end it."""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from connectors.cancels import Cancel, send_cancel
from connectors.kafka import client_config
from connectors.topics import TASKS
from schemas.decision import DecisionKind
from tests.aureon_command import aureon
from tests.brokers import Broker
from tests.chaos.audit import undecided
from tests.flows.test_refine import Running, Task, cell_on, send, tasks

BRANCHES = 1000
SOON_S = 5.0
"""Half of what so many take where nobody cancels them. Some 0.2 s are usual."""


def begun(home: Path) -> list[tuple[float, str]]:
    """When each call began, by the wall clock, and which it was."""
    path = home / "calls.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(at), name) for at, what, name in (line.split(" ") for line in lines) if what == "begins"]


def kinds(run: Running) -> dict[DecisionKind, int]:
    """How many decisions of each kind there are."""
    run.follower.poll()
    found: dict[DecisionKind, int] = {}
    for _, decision in run.follower.winners.values():
        found[decision.kind] = found.get(decision.kind, 0) + 1
    return found


def calls_begin(run: Running, home: Path, known: int) -> bool:
    """More calls than are known have begun, or none will."""
    return len(begun(home)) > known or (not undecided(run.follower) and is_quiet(run))


def is_quiet(run: Running) -> bool:
    """Nothing is open, and stays so for a while."""
    before = run.decisions()
    time.sleep(1.5)
    return run.decisions() == before and not undecided(run.follower)


@pytest.mark.chaos
def test_a_root_task_that_branches_without_end_stays_within_its_calls_over_three_kills(
    own_broker: Broker, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    """What a killed process had begun counts; every task ends, as forced or dead where the budget is the reason."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    root: Task = {"topic": "math", "logical_id": "root", "payload": {"prompt": "?"}, "budget": {"calls": 100}}
    with cell_on(own_broker, tmp_path, "endless_nodes", max_depth=1_000_000, max_branches=1_000_000) as run:
        send(own_broker, TASKS, [root])
        for kill in range(4):
            run.cell.start("w1")
            known = len(begun(tmp_path))
            run.wait_for(partial(calls_begin, run, tmp_path, known), 120, "no call begins")
            if kill < 3:
                time.sleep(rng.uniform(0.0, 0.8))
                run.cell.kill()
        run.wait_for(lambda: is_quiet(run), 120, "it goes on for ever")
        calls = begun(tmp_path)
        reasons: dict[str, int] = {}
        for _, decision in run.follower.winners.values():
            reason = f"{decision.kind} {decision.reason}"
            if "not in the budget" in decision.routing:
                reason += ", not all asked: not in the budget"
            reasons[reason] = reasons.get(reason, 0) + 1
        run.stop_and_audit()
    repeated = len(calls) - len({name for _, name in calls})
    figures(f"seed {seed}: {len(calls)} calls, {repeated} of them again after a kill; {reasons}")
    assert 60 <= len(calls) <= 100, f"seed {seed}"
    assert any("budget" in reason for reason in reasons), f"seed {seed}: {reasons}"


def test_a_day_s_budget_holds_in_a_cell_that_knows_nothing_of_what_another_has_spent(
    own_broker: Broker, tmp_path: Path
) -> None:
    """As where a lane comes to it, or its state folder is lost: the lake knows."""
    sent = tasks(60)
    with cell_on(own_broker, tmp_path, "endless_nodes", max_branches=0, day_budget="calls=40") as run:
        for part in (sent[:30], sent[30:]):
            run.cell.kill(lose_state=run.cell.state.exists())
            run.cell.start("w1")
            send(own_broker, TASKS, part)
            run.wait_for(lambda: is_quiet(run), 120, "it goes on for ever")
        run.stop_and_audit()
    assert len(begun(tmp_path)) == 40


def test_a_cancelled_tree_of_a_thousand_branches_ends(
    own_broker: Broker, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    """Soon no call begins any more, every branch has a decision, and a restart changes nothing."""
    root: Task = {"topic": "math", "logical_id": "root", "payload": {"prompt": "?"}}
    bystander: Task = {"topic": "math", "logical_id": "bystander", "payload": {"prompt": "?"}}
    with cell_on(own_broker, tmp_path, "tree_nodes", max_branches=BRANCHES) as run:
        send(own_broker, TASKS, [root])
        run.cell.start("w1")
        run.wait_for(lambda: len(begun(tmp_path)) >= 202, 120, "the branches do not begin")
        ordered = time.time()
        send_cancel(client_config(own_broker.brokers), Cancel("math", "root", ordered))
        run.wait_for(lambda: run.decisions() == 1 + BRANCHES, 120, "not every branch has a decision")
        took = time.time() - ordered
        late = [name for at, name in begun(tmp_path) if at > ordered + SOON_S]
        asked = {name.split("/")[1] for _, name in begun(tmp_path) if name.startswith("follow-up/")}
        found = kinds(run)
        figures(f"{len(begun(tmp_path))} calls begun, {found} {took:.1f} s after the order, {len(late)} calls later")
        assert not late
        assert len(asked) < BRANCHES, "nothing was left to cancel"
        assert found[DecisionKind.CANCELLED] >= BRANCHES - len(asked)
        assert found[DecisionKind.CANCELLED] + found[DecisionKind.CONVERGED] == 1 + BRANCHES
        run.cell.kill()
        run.cell.start("w1")
        send(own_broker, TASKS, [bystander])
        run.wait_for(lambda: ("math", "bystander") in run.ended(), 120, "another task does not end")
        assert kinds(run)[DecisionKind.CANCELLED] == found[DecisionKind.CANCELLED]
        done = aureon("cancel", "math", "bystander", cwd=tmp_path, AUREON_BROKERS=own_broker.brokers)
        assert done.returncode == 0, done.stderr
        assert "cancelled: math bystander" in done.stdout
        run.wait_for(lambda: run.decisions() >= 2 + 2 * BRANCHES, 120, "the other tree does not end")
        run.stop_and_audit()


def test_a_cancel_that_comes_before_its_task_holds_and_so_over_a_restart(own_broker: Broker, tmp_path: Path) -> None:
    """Not one call of it is made; a task of the same id on another topic is not meant."""
    early: Task = {"topic": "math", "logical_id": "early", "payload": {"prompt": "?"}}
    with cell_on(own_broker, tmp_path, "tree_nodes", max_branches=0) as run:
        send_cancel(client_config(own_broker.brokers), Cancel("math", "early", time.time()))
        run.cell.start("w1")
        time.sleep(1)
        run.cell.kill()
        send(own_broker, TASKS, [early, {**early, "topic": "logic"}])
        run.cell.start("w1")
        run.wait_for_ends([("math", "early"), ("logic", "early")])
        assert kinds(run) == {DecisionKind.CANCELLED: 1, DecisionKind.CONVERGED: 1}
        assert not [name for _, name in begun(tmp_path) if name.startswith("math/")]
        run.stop_and_audit()


def test_cancel_says_what_is_wrong_with_its_arguments(tmp_path: Path) -> None:
    """And gives the cure."""
    for arguments, says in ((("math", "root:r3"), "leave out its round, 'root'"), (("", "root"), "is empty")):
        done = aureon("cancel", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr
