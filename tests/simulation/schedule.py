"""One schedule: what users send, what fails and when, all from one seed; then peace, until nothing moves.

The seed also chooses the kind of schedule:

    general   crashes, zombies, lost folders, moved lanes, poison, all mixed
    poison    nothing fails but what poison brings down: nothing else may die of it
    broker    the broker loses what it had acknowledged: the lane has to say so, or to be exact without it
"""

from collections.abc import Sized
from random import Random
from typing import Literal

from msgspec import Struct

from flows.cut import decode_cut, newest
from flows.lane import Lane
from schemas.errors import LogMismatchError
from tests.simulation.invariants import Check
from tests.simulation.process import Cell, CrashError
from tests.simulation.world import (
    GLOBAL,
    HIGH,
    INPUTS,
    NEXT,
    RETRY,
    TOPICS,
    Chances,
    Folder,
    Lake,
    Redriver,
    Task,
    World,
    home,
)

Kind = Literal["general", "poison", "broker"]
PEACE = 1500
"""Rounds of everything for everybody, until nothing moves; far more than any true lane needs."""
REDRIVE_AT, LAST_REDRIVES = 2, 4
QUIET = 3
"""So many rounds without anything, and it is at rest: a lane may take two to change its mind, a retry waits one out."""


class Rules(Struct, frozen=True):
    """What is simulated: the true classes, or a mutant in place of one."""

    lane: type[Lane] = Lane
    cell: type[Cell] = Cell
    lake: type[Lake] = Lake
    redriver: type[Redriver] = Redriver


TRUE = Rules()


class Outcome(Struct):
    """How a schedule ended."""

    seed: int
    kind: Kind
    failures: list[str]
    stopped: str = ""
    """The lane said that the broker has lost something."""
    trace: list[str] = []


def kind_of(seed: int) -> Kind:
    """The kind of schedule that a seed gives."""
    last = seed % 20
    if last in {3, 13}:
        return "poison"
    return "broker" if last in {7, 17} else "general"


def run(seed: int, rules: Rules = TRUE, *, tracing: bool = False) -> Outcome:
    """Run one schedule, and check what it has left."""
    schedule = Schedule(seed, rules, tracing=tracing)
    world = schedule.world
    stopped = ""
    try:
        schedule.trouble()
        schedule.peace()
    except LogMismatchError as error:
        stopped = str(error)
        if not schedule.broker_lost:
            world.failures.append(f"stopped, although the broker has lost nothing: {error}")
    if not stopped:
        Check(world, lost_input=schedule.broker_lost == "input", protect=schedule.kind == "poison").all(schedule.valid)
        schedule.check_rest()
    return Outcome(seed, schedule.kind, world.failures, stopped, world.trace)


class Schedule:
    """The users and the faults of one seed."""

    def __init__(self, seed: int, rules: Rules, *, tracing: bool) -> None:
        self.kind = kind_of(seed)
        self.rules = rules
        self.random = random = Random(seed)
        draw = random.random
        lanes = 1 + int(draw() * draw() * 4.99) if self.kind == "general" else 1 + int(draw() * 3)
        some = draw() < 0.5
        chances = Chances(
            gap=0.15 * draw() if some else 0.0,
            converge=0.3 + 0.4 * draw(),
            retry=0.25 * draw(),
            dead=0.08 * draw(),
            branch=0.6 * draw(),
            big=0.05 if draw() < 0.1 else 0.0,
            epoch=0.01 + 0.1 * draw(),
        )
        self.poison = 0.0
        if self.kind == "poison":
            self.poison = 0.05 + 0.25 * draw()
            chances.poison_branch = 0.1
        elif draw() < 0.15:
            self.poison = 0.1
        self.world = World(
            random,
            lanes,
            chances,
            span=2 + int(draw() * draw() * 30),
            in_flight=1 + int(draw() * 12),
            at_first=1 + seed % 61,
            delay=float(5 + int(draw() * 40)),
            lane_class=rules.lane,
            lake_class=rules.lake,
            tracing=tracing,
        )
        self.names = [f"t{i}" for i in range(2 + int(draw() * 9))]
        self.misplaced = 0.25 * draw() if draw() < 0.6 else 0.0
        self.conflict = 0.5 * draw() if draw() < 0.5 else 0.0
        self.odd = 0.12 if draw() < 0.4 else 0.0
        self.messages = 4 + int(draw() * 14)
        self.priorities = 1 + seed % 3
        """Where there is one, only turns between topics change the order."""
        self.faults = 0 if self.kind == "poison" else int(draw() * 7) if self.kind == "general" else int(draw() * 3)
        self.cancelling = Random(seed ^ 0xCA9CE1)
        """Apart from the rest, so that a schedule is what it was without cancels."""
        self.cancels = 0
        if self.kind == "general" and self.cancelling.random() < 0.2:
            self.cancels = 1 + int(self.cancelling.random() * 3)
        self.plan_redrives(seed, chances)
        self.plan_delays(seed)
        self.bursts = draw() if draw() < 0.4 else 0.0
        if self.kind == "broker" and draw() < 0.6:  # much is above the low-waters when it happens
            chances.epoch, chances.gap = 0.01, 0.3 * draw()
        if draw() < 0.2:  # snapshots while a lane still catches up
            self.bursts, chances.epoch, chances.log = 0.7, 0.2, 1
        self.valid: set[tuple[str, str, int]] = set()
        self.broker_lost: Literal["", "log", "input"] = ""
        self.cells_made = 0
        self.owner: dict[int, Cell] = {}
        self.owners: list[Cell] = []
        self.left_behind: dict[tuple[str, int], Folder] = {}
        """What a process still has of a lane that it left to another one: by its name, and the lane."""
        self.asleep: list[Cell] = []
        self.awake: list[Cell] = []
        numbers = list(range(lanes))
        if lanes > 1 and draw() < 0.5:
            at = 1 + int(draw() * (lanes - 1))
            self.start({n: Folder() for n in numbers[:at]})
            self.start({n: Folder() for n in numbers[at:]})
        else:
            self.start({n: Folder() for n in numbers})

    def plan_redrives(self, seed: int, chances: Chances) -> None:
        """Decide how often dead letters are sent again; apart from the rest, too."""
        self.redriving = Random(seed ^ 0x2ED21)
        self.redriver = self.rules.redriver(self.world)
        self.redrives = 0
        if self.kind == "general" and self.redriving.random() < 0.5:
            self.redrives = 1 + int(self.redriving.random() * 6)
            chances.dead = max(chances.dead, 0.2 * self.redriving.random())

    def plan_delays(self, seed: int) -> None:
        """Decide how often a user sends to where retries are delayed; apart from the rest, too."""
        self.delaying = Random(seed ^ 0xDE1A7)
        self.delayed = 0.5 if self.kind == "general" and self.delaying.random() < 0.2 else 0.0
        # and how often a message comes by a transaction, which leaves offsets without one at its end
        self.committing = Random(seed ^ 0x7A5AC)
        self.committed = 0.4 if self.kind == "general" and self.committing.random() < 0.2 else 0.0

    # -- processes

    def start(self, folders: dict[int, Folder]) -> None:
        """Start a process; it owns its lanes from now on."""
        self.cells_made += 1
        cell = self.rules.cell(self.world, f"cell{self.cells_made}", folders)
        for number in folders:
            self.owner[number] = cell
        self.owners = list(dict.fromkeys(self.owner.values()))
        if self.world.tracing:
            at = {s.number: (s.lane.log_start, s.lane._follow_from) for s in cell.slots}
            self.world.note(f"{cell.name} starts with lanes at {at}")

    def mine(self, cell: Cell) -> dict[int, Folder]:
        """The folders of the lanes that a process still owns."""
        return {slot.number: slot.folder for slot in cell.slots if self.owner[slot.number] is cell}

    def again(self, cell: Cell) -> None:
        """Start a process again, with its folder."""
        self.start(self.mine(cell))

    def step(self, cell: Cell) -> None:
        """Let a process do one thing; if it crashes of that, it is started again unless it is a zombie."""
        try:
            cell.step()
        except CrashError as error:
            self.crashed(cell, error)

    def crashed(self, cell: Cell, error: CrashError) -> None:
        """A process has brought itself down."""
        if self.world.tracing:
            self.world.note(f"{cell.name} crashes: {error}")
        self.world.activity += 1
        if cell in self.awake:
            self.awake.remove(cell)
        else:
            self.again(cell)

    # -- users

    def user(self) -> None:
        """A user sends one message."""
        world, random = self.world, self.random
        draw = random.random
        name = self.names[int(draw() * len(self.names))]
        topic = TOPICS[int(draw() < 0.25)]
        kafka_topic = GLOBAL if draw() < 0.7 else HIGH if draw() < 0.9 else NEXT
        if self.delayed and self.delaying.random() < self.delayed:
            kafka_topic = RETRY
        lane = home(name, world.lanes)
        if draw() < self.misplaced:
            lane = int(draw() * world.lanes)
        if self.broker_lost:
            # a task id does not tell topics apart
            name, topic = f"{name}-late", TOPICS[0]
            lane = home(name, world.lanes)
        task = Task(
            topic,
            name,
            "d1" if draw() < self.conflict else "d0",
            int(draw() < 0.05),
            priority=int(draw() * self.priorities),
            poison=draw() < self.poison,
        )
        if self.odd and draw() < self.odd:
            self.odd_message(kafka_topic, lane, task)
            return
        if not task.generation:
            self.valid.add((topic, name, 0))
        offset = world.append(kafka_topic, lane, task)
        if self.committed and self.committing.random() < self.committed:
            world.inputs[kafka_topic, lane].extend([None] * (1 + int(self.committing.random() ** 3 * 8)))
        if world.tracing:
            world.note(f"user {kafka_topic}[{lane}]@{offset} {topic}/{task.task_id} {task.digest} poison={task.poison}")

    def cancel(self) -> None:
        """A user ends a task, sent already or not yet."""
        topic = TOPICS[int(self.cancelling.random() < 0.25)]
        name = self.names[int(self.cancelling.random() * len(self.names))]
        if (topic, name) not in self.world.cancels:
            self.world.cancels.append((topic, name))
        self.note(f"{topic}/{name} is cancelled")

    def redrive_some(self, turn: int) -> None:
        """Once in peace, of what has died by now."""
        for _ in range(LAST_REDRIVES if turn == REDRIVE_AT and self.redrives else 0):
            self.redrive()

    def redrive(self) -> None:
        """Somebody sends a dead letter again, perhaps one that was sent before."""
        rows = self.world.lake.rows["dead_letters"]
        if rows:
            task = self.redriver.send(rows[int(self.redriving.random() * len(rows))])
            if task is not None:
                self.valid.add((task.topic, task.logical_id, task.generation))
                self.note(f"{task.topic}/{task.task_id} is redriven as generation {task.generation}")

    def odd_message(self, kafka_topic: str, lane: int, task: Task) -> None:
        """No task, a cause that was made up, or one copied from elsewhere."""
        world, draw = self.world, self.random.random
        task.poison = False
        what = draw()
        if what < 0.3:
            task.bad = True
        elif what < 0.65:
            task.cause = (int(draw() * world.lanes), int(draw() * 1000), 0)
            task.seal = "0" * 24
            kafka_topic = NEXT if draw() < 0.5 else kafka_topic
        else:
            places = [(p, r) for p, part in world.inputs.items() for r in part if r is not None and r.task.cause]
            if not places:
                return
            (kafka_topic, at), record = places[int(draw() * len(places))]
            task, lane = record.task, at if draw() < 0.6 else int(draw() * world.lanes)
        offset = world.append(kafka_topic, lane, task)
        if world.tracing:
            world.note(f"user {kafka_topic}[{lane}]@{offset} odd: {task.task_id} bad={task.bad} cause={task.cause}")

    # -- trouble

    def trouble(self) -> None:
        """Users send, processes work, things fail."""
        draw, world = self.random.random, self.world
        steps = 40 + int(draw() * 130)
        sends = sorted(int(draw() * draw() * steps) for _ in range(self.messages))
        faults = [int(draw() * steps) for _ in range(self.faults)]
        for at in range(1, len(faults)):
            if draw() < self.bursts:  # soon after another one
                faults[at] = faults[at - 1] + int(draw() * 12)
        faults.sort(reverse=True)
        loss = int(steps * (0.4 + 0.4 * draw())) if self.kind == "broker" else -1
        orders = [(int(self.cancelling.random() * steps), self.cancel) for _ in range(self.cancels)]
        orders += [(int(self.redriving.random() * steps), self.redrive) for _ in range(self.redrives)]
        sent = 0
        for at in range(steps):
            world.now += 1.0
            while sent < len(sends) and sends[sent] <= at:
                self.user()
                sent += 1
            while faults and faults[-1] <= at:
                faults.pop()
                self.fault()
            for order in [order for due, order in orders if due == at]:
                order()
            if at == loss:
                self.broker_loses()
            self.forward()
            if self.asleep and draw() < 0.08:
                self.awake.append(self.asleep.pop())
                self.note(f"{self.awake[-1].name} wakes")
            for _ in range(3):
                self.somebody()

    def somebody(self) -> None:
        """Some process does one thing, or is started again after it has stopped."""
        draw = self.random.random
        cells = self.awake if self.awake and draw() < 0.4 else self.owners
        cell = cells[int(draw() * len(cells))] if len(cells) > 1 else cells[0]
        if not cell.ended:
            self.step(cell)
        elif draw() < 0.3 and cells is self.owners:
            self.again(cell)

    def forward(self) -> None:
        """Of one mutant: messages are forwarded when they are due."""
        if not self.world.later:
            return
        due = [item for item in self.world.later if item[0] <= self.world.now]
        self.world.later = [item for item in self.world.later if item[0] > self.world.now]
        for _, kafka_topic, lane, task in due:
            self.world.append(kafka_topic, lane, task)

    def fault(self) -> None:
        """Something happens to a process that owns lanes."""
        draw = self.random.random
        cell = self.owners[int(draw() * len(self.owners))]
        mine = self.mine(cell)
        what = draw()
        if what < 0.3:
            self.note(f"{cell.name} is killed")
            self.start(mine)
        elif what < 0.42:
            self.note(f"{cell.name} is killed and its folder lost")
            self.start({n: self.lost(n) for n in mine})
        elif what < 0.72:
            self.note(f"{cell.name} falls asleep, and another goes on with something like its state")
            self.sleep(cell)
            self.start({n: self.rivals(n, f) for n, f in mine.items()})
        elif what < 0.8:
            self.moves(cell, mine, list(mine)[int(draw() * len(mine))])
        elif what < 0.88:
            self.changes_hands(cell, list(mine)[int(draw() * len(mine))])
        elif not cell.ended and not cell.stopping:
            self.note(f"{cell.name} stops gracefully")
            self.graceful(cell)
            if draw() < 0.5:
                self.start(mine)

    def note(self, text: str) -> None:
        """Add a line to the trace, if there is one."""
        if self.world.tracing:
            self.world.note(text)

    def sleep(self, cell: Cell) -> None:
        """A process is stopped, and may wake later; with two of them asleep already it is killed."""
        if len(self.asleep) < 2:
            self.asleep.append(cell)

    def moves(self, cell: Cell, mine: dict[int, Folder], number: int) -> None:
        """Another process takes one lane; the one that had it sleeps, has stopped or was killed."""
        how = self.random.random()
        self.note(f"lane {number} moves away from {cell.name}")
        if how < 0.5:
            self.sleep(cell)
        elif how < 0.75 and not cell.ended:
            self.graceful(cell)
        rest = {n: f.copy() for n, f in mine.items() if n != number}
        self.start({number: self.lost(number)})
        if rest:
            self.start(rest)

    def changes_hands(self, cell: Cell, number: int) -> None:
        """A process leaves a lane to another one, and both go on; whoever had it before still has its old folder."""
        if cell.stopping or cell.ended:
            return
        slot = next(s for s in cell.slots if s.number == number)
        cell.let_go(slot)
        self.left_behind[cell.name, number] = slot.folder
        others = [c for c in self.owners if c is not cell and not (c.stopping or c.ended)]
        if others:
            other = others[int(self.random.random() * len(others))]
            self.note(f"{cell.name} leaves lane {number} to {other.name}")
            old = self.left_behind.pop((other.name, number), None)
            other.slots.append(other.open(number, old if old is not None else self.lost(number)))
            self.owner[number] = other
            self.owners = list(dict.fromkeys(self.owner.values()))
            if self.random.random() < 0.5:  # and most often gets it back at once
                self.changes_hands(other, number)
        else:
            self.note(f"{cell.name} leaves lane {number} to a new process")
            self.start({number: self.lost(number)})
        if not cell.slots:
            self.awake.append(cell)

    def graceful(self, cell: Cell) -> None:
        """A graceful stop, at times interrupted before its last snapshot is durable."""
        try:
            cell.stop()
            if self.random.random() < 0.8:
                while cell.ending:
                    cell.ending.popleft()()
        except CrashError as error:
            self.note(f"{cell.name} crashes while it stops: {error}")
            cell.ended = True

    def lost(self, number: int) -> Folder:
        """A new folder: the index of ids is rebuilt from `rounds`, or will be from the log; the cut is the group's."""
        folder = Folder()
        how = self.random.random()
        if how < 0.5:
            self.world.rebuilt_index(number, folder)
        elif how < 0.65:
            self.world.group.pop(number, None)
            self.world.rebuilt_index(number, folder)
        return folder

    def rivals(self, number: int, folder: Folder) -> Folder:
        """What a second process has of a lane: a copy, an older cut, or nothing."""
        draw = self.random.random
        what = draw()
        if what < 0.45:
            return folder.copy()
        if what < 0.75:
            other = folder.copy()
            if other.older:
                at = int(draw() * len(other.older))
                other.cut = other.older[at]
                del other.older[at:]
                if draw() < 0.5:
                    other.index, other.index_next = {}, 0
                    self.world.rebuilt_index(number, other)
            return other
        return self.lost(number)

    # -- a broker that loses what it had acknowledged

    def broker_loses(self) -> None:
        """All processes and the broker are killed; the log or an input comes back shorter than it was."""
        world, draw = self.world, self.random.random
        self.asleep.clear()
        self.awake.clear()
        number = int(draw() * world.lanes)
        folder = self.mine(self.owner[number])[number]
        held = (folder.cut, world.group.get(number))
        cut = newest(*(decode_cut(data) for data in held if data is not None))
        what = draw()
        log = world.logs[number]
        if what < 0.25 and cut is not None:
            start = min(cut.resume_from, folder.index_next)
            end = len(log)
            world.log_begins[number] = min(end, start + 1 + int(draw() * 4))
            self.broker_lost = "log"
        elif what < 0.6:
            known = max(cut.log if cut is not None else 0, folder.index_next)
            if known:
                del log[max(0, known - 1 - int(draw() * 4)) :]
                self.broker_lost = "log"
        else:
            places = [t for t in INPUTS if world.inputs[t, number]]
            if places:
                kafka_topic = places[int(draw() * len(places))]
                partition = world.inputs[kafka_topic, number]
                low = cut.topics[kafka_topic].low if cut is not None and kafka_topic in cut.topics else 0
                # not below the low-water: that cannot be seen once the input has grown again
                del partition[max(low, len(partition) - 1 - int(draw() * 4)) :]
                self.broker_lost = "input"
        if world.tracing:
            world.note(f"the broker loses of its {self.broker_lost or 'nothing'}, lane {number}, {what:.2f}")
        for _ in range(int(draw() * 4) if self.broker_lost == "input" else 0):
            self.user()
        for cell in list(self.owners):
            self.again(cell)

    # -- peace

    def peace(self) -> None:
        """No more faults: one process a lane, until nothing moves."""
        world, draw = self.world, self.random.random
        self.asleep.clear()
        self.awake.clear()
        for cell in list(self.owners):
            mine = self.mine(cell)
            if cell.ended or (cell.stopping and not cell.ending):
                self.start(mine)
            elif self.kind == "general" and draw() < 0.4:
                self.start({n: self.rivals(n, f) for n, f in mine.items()})
        if world.tracing:
            world.note("peace")
        quiet = 0
        for turn in range(PEACE):
            self.redrive_some(turn)
            before = world.activity
            for cell in list(self.owners):
                try:
                    cell.run_through()
                except CrashError as error:
                    self.crashed(cell, error)
                if cell.ended:
                    self.again(cell)
            world.now += world.delay if quiet else 1.0
            self.forward()
            quiet = quiet + 1 if world.activity == before else 0
            if quiet > QUIET:
                return
        world.failures.append(f"not at rest after {PEACE} rounds of peace")

    def check_rest(self) -> None:
        """At rest a lane remembers nothing but how far it is."""
        if self.world.failures or self.broker_lost:
            return
        for number, cell in self.owner.items():
            lane = next(s.lane for s in cell.slots if s.number == number)
            cut = lane.cut()
            if cut.resume_from != cut.log:
                self.world.failures.append(
                    f"lane {number} is at rest, yet would resume from {cut.resume_from} of {cut.log}"
                )
            kept: list[Sized] = [lane._waiting, lane._under_way, lane._places, lane._marks, lane._marking]
            for source in lane._inputs.values():
                kept += [source.decided, source.done, source.window]
            lacking = {t: s.low for t, s in lane._inputs.items() if s.low != len(self.world.inputs[t, number])}
            if lacking:
                self.world.failures.append(f"lane {number} is at rest, and waits for what is no message: {lacking}")
            if any(kept) or lane.under_way:
                self.world.failures.append(f"lane {number} is at rest, yet holds {[k for k in kept if k]}")
