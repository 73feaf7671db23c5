"""Each rule of the design left out, one at a time; a schedule has to fail without it.

All of these are in the tests only: the product has no switch for any of them.
"""

# ruff: noqa: ARG002 - a mutant does not look at what it should
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from flows.cut import Cut, TopicCut, encode_cut
from flows.lane import ALONE, Entry, Lane, Message, id_key
from schemas.decision import DecisionKind
from tests.simulation.process import Cell, Slot
from tests.simulation.schedule import TRUE, Kind, Rules
from tests.simulation.world import NEXT, RETRY, Folder, Index, Lake, Parsed, Redriver, Row, Task
from tests.simulation.world import Entry as Said

# -- the log decides -----------------------------------------------------------------------------------------------


class SecondDecisionCounts(Lane):
    """A second decision on a message is not ignored."""

    def log(self, offset: int, entry: Entry) -> bool:
        """All follows from it once more."""
        wins = super().log(offset, entry)
        return wins or (entry.kind is not DecisionKind.STARTED and offset >= self._follow_from)


class NamedByOffset(Lane):
    """A message is named by its offset, not by its Kafka topic and offset."""

    def log(self, offset: int, entry: Entry) -> bool:
        """Decide the messages with this offset in every input."""
        wins = super().log(offset, entry)
        if entry.kind is not DecisionKind.STARTED:
            for name, source in self._inputs.items():
                number = entry.offset
                if name != entry.kafka_topic and number >= source.low and number not in source.done:
                    source.decided.setdefault(number, (offset, ""))
                    self._settle(name, number)
                    self._advance(source)
        return wins

    def read(self, message: Message) -> None:
        """Without the comparison of task ids, which would stop it at once."""
        decided = self._inputs[message.kafka_topic].decided
        if message.offset in decided:
            decided[message.offset] = (decided[message.offset][0], message.task_id)
        super().read(message)


class NoTaskIdCheck(Lane):
    """Nobody compares the task id of a decision with that of its message."""

    def log(self, offset: int, entry: Entry) -> bool:
        """Take any entry for the message with its name."""
        source = self._inputs[entry.kafka_topic]
        message = self._find(source, entry.offset) if entry.offset >= source.low else None
        if message is None:
            return super().log(offset, entry)
        own, message.task_id = message.task_id, entry.task_id
        wins = super().log(offset, entry)
        message.task_id = own
        return wins

    def read(self, message: Message) -> None:
        """Take any message for the one that was decided."""
        decided = self._inputs[message.kafka_topic].decided.get(message.offset)
        if decided is not None:
            message.task_id = decided[1]
        super().read(message)


class NoLogCheck(Lane):
    """Nobody looks whether the log holds what was read of it."""

    def check_log(self, begin: int, end: int) -> None:
        """Go on, whatever the log holds."""


class NoInputCheck(Lane):
    """Nobody looks whether the inputs hold what was decided of them."""

    def check_input(self, kafka_topic: str, begin: int, end: int, log_end: int) -> None:
        """Go on, whatever they hold."""

    def _check_gap(self, kafka_topic: str, source: Any, until: int) -> None:
        """Take any gap for one."""


class InputCheckedLate(Cell):
    """The end of an input is asked for when the log has been read, and what follows from it was sent again."""

    def _begin_reading(self, slot: Slot) -> None:
        if slot.log_at >= slot.log_end:
            for kafka_topic in slot.input_ends:
                slot.input_ends[kafka_topic] = len(self.world.inputs[kafka_topic, slot.number])
        super()._begin_reading(slot)


class ClaimCounts(Lane):
    """A decision on an id that another payload owns decides its message, and nobody is told of the conflict."""

    def _refuse(self, entry: Entry, message: Message | None) -> None:
        self._inputs[entry.kafka_topic].decided[entry.offset] = (self.log_next - 1, entry.task_id)
        self._settle(entry.kafka_topic, entry.offset)
        self._advance(self._inputs[entry.kafka_topic])


# -- all follows from the log as read back -------------------------------------------------------------------------


class FollowsFromMemory(Cell):
    """What follows is sent by the process that decides, from its memory, when its decision is acknowledged."""

    def appended(self, lane: int, offset: int, entry: Said) -> None:
        """Send what follows, whether this decision wins or not."""
        super().appended(lane, offset, entry)
        if entry.kind is not DecisionKind.STARTED:
            super().follow(lane, offset, entry)

    def follow(self, lane: int, offset: int, entry: Said) -> None:
        """Of what is read back nothing follows."""


class TooLargeWins(Cell):
    """Nobody measures a decision before it is appended."""

    def measured(self, entry: Said) -> Said:
        """Append it as it is."""
        return entry


class ProducerGivesUp(Cell):
    """A producer gives up on one message and delivers the next."""

    def deliver_one(self, place: tuple[str, int], queue: "deque[Said | Task]") -> None:
        """Lose a message now and then."""
        if self.world.random.random() < 0.05 and place[0] != "tasks.results":
            queue.popleft()
        else:
            super().deliver_one(place, queue)


# -- each cause counts once ----------------------------------------------------------------------------------------


class DecidedCausesNotRegistered(Lane):
    """The cause of a message that is decided already is not registered."""

    def read(self, message: Message) -> None:
        """Forget the cause of a decided message."""
        if message.offset in self._inputs[message.kafka_topic].decided:
            message.cause = None
        super().read(message)


class CausesPerTopic(Lane):
    """One number a Kafka topic tells which causes were seen, for all lanes of origin."""

    def read(self, message: Message) -> None:
        """Take all causes for those of one lane."""
        if message.cause is not None:
            message.cause = (0, *message.cause[1:])
        super().read(message)


class CutHoldsNewestCauses(Lane):
    """The cut holds the newest causes read, not the newest below the low-water."""

    def cut(self) -> Cut:
        """Take the cut with the wrong causes."""
        cut = super().cut()
        topics = {name: TopicCut(s.low, dict(s.seen)) for name, s in self._inputs.items()}
        return Cut(cut.lane, cut.log, cut.resume_from, topics)


class CutHoldsNoCauses(Lane):
    """The cut holds no causes."""

    def cut(self) -> Cut:
        """Take the cut without them."""
        cut = super().cut()
        topics = {name: TopicCut(s.low, {}) for name, s in self._inputs.items()}
        return Cut(cut.lane, cut.log, cut.resume_from, topics)


class RetryForwarded(Cell):
    """A retry is forwarded to the other rounds when it is due, with the cause it had."""

    def put(self, kafka_topic: str, lane: int, task: Task) -> None:
        """Keep a retry until it is due."""
        if kafka_topic == NEXT and task.attempt:
            self.world.later.append((self.world.now + self.world.delay, kafka_topic, lane, task))
        else:
            super().put(kafka_topic, lane, task)

    def answer(self, lane: int, message: Message, task: Task) -> Any:
        """Name the Kafka topic where a retry ends up."""
        kind, reason, follow_ups = super().answer(lane, message, task)
        for follow_up in follow_ups:
            if follow_up.kafka_topic == RETRY:
                follow_up.kafka_topic = NEXT
        return kind, reason, follow_ups


class ForgedCausesAccepted(Cell):
    """Nobody looks at the seal of a cause."""

    def seal_holds(self, kafka_topic: str, lane: int, task: Task) -> bool:
        """Believe everybody."""
        return True


class SealWithoutPlace(Cell):
    """A seal binds a cause to its message, but not to the place where it was sent."""

    def seal_holds(self, kafka_topic: str, lane: int, task: Task) -> bool:
        """Believe a message that was copied from elsewhere."""
        holds = super().seal_holds
        return any(holds(elsewhere, other, task) for elsewhere, other in self.world.inputs)


# -- ids are owned in log order ------------------------------------------------------------------------------------


class DoubleDropped(Lane):
    """A double of an id that is under way is dropped, instead of waiting until the log says who owns the id."""

    def _admit(self, message: Message) -> None:
        key = message.key
        if key is not None and key in self._waiting and self._owners.get(key) is None:
            self._repeated(self._inputs[message.kafka_topic], message)
        else:
            super()._admit(message)


class AdmittedWhenDue(Lane):
    """A delayed message is admitted when it is due, also where it was decided by then."""

    def _admit_due(self, now: float) -> None:
        for source in self._inputs.values():
            while source.delayed and source.delayed[0].due_at <= now:
                self._admit(source.delayed.popleft())


class DoublesWaitUntilDue(Lane):
    """A delayed message whose id has an owner waits like any other: fewer are suspect than the life before had."""

    def read(self, message: Message) -> None:
        """Look for no owner before it is due."""
        key, message.key = message.key, None if message.due_at else message.key
        super().read(message)
        message.key = key


class NoOwners(Lane):
    """An id may be decided by more than one message."""

    def _own(self, entry: Entry, key: bytes) -> Any:
        owner = super()._own(entry, key)
        return type(owner)(entry.kafka_topic, entry.offset, entry.payload_digest)


class MovedSkipsIds(Cell):
    """A message that was moved to its home is not looked up in the index of ids."""

    def classify(self, kafka_topic: str, lane: int, task: Task) -> Parsed:
        """Take its cause for enough."""
        parsed = super().classify(kafka_topic, lane, task)
        if parsed.cause is not None and not task.depth:
            parsed.key = None
        return parsed


class BranchesSkipIds(Cell):
    """A branch is not looked up: two tasks with one id in two topics may branch to the same topic."""

    def classify(self, kafka_topic: str, lane: int, task: Task) -> Parsed:
        """Take its cause for enough."""
        parsed = super().classify(kafka_topic, lane, task)
        if parsed.cause is not None and task.depth:
            parsed.key = None
        return parsed


class NotMoved(Cell):
    """A message is worked on where some producer put it."""

    def classify(self, kafka_topic: str, lane: int, task: Task) -> Parsed:
        """Take any lane for its home."""
        parsed = super().classify(kafka_topic, lane, task)
        if parsed.verdict == "moved":
            key = id_key(task.topic, task.logical_id, task.generation)
            return Parsed(parsed.task_id, None, key, None)
        return parsed


class IndexNotRebuilt(Cell):
    """With a lost folder the index of ids begins empty at the cut."""

    def open_index(self, number: int, folder: Folder, cut: Cut | None) -> Index:
        """Say that an empty index is all there is."""
        if cut is not None and folder.cut is None:
            folder.index, folder.index_next = {}, cut.log
            return Index(folder)
        return super().open_index(number, folder, cut)


class IndexNamedByCut(Cell):
    """The index of ids is named by the log offset of the cut, though less of the log has been read."""

    def flush_index(self, slot: Slot, cut: Cut) -> None:
        """Claim what was not read."""
        slot.index.flush(cut.log)


class CopyNamedByLog(Cell):
    """A copy of the index is named by how far the log has been read by then, and holds what was flushed before."""

    def flush_index(self, slot: Slot, cut: Cut) -> None:
        """Copy first."""
        self.copy_index(slot)
        copied = self.world.copies.get(slot.number)
        if copied is not None:
            copied.index_next = max(copied.index_next, slot.lane.log_next)
        super().flush_index(slot, cut)


# -- the cut -------------------------------------------------------------------------------------------------------


class BetweenNotRead(Lane):
    """The log between R and D is not read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_start = self.log_next = self._follow_from


class ReadsFromAdvanced(Lane):
    """After the log has been read, reading begins at the low-water that it tells, not at that of the cut."""

    def begin_reading(self, ends: Mapping[str, int]) -> None:
        """Skip what is decided, without a look at it."""
        super().begin_reading(ends)
        for source in self._inputs.values():
            while source.decided.pop(source.low, None) is not None:
                source.low += 1
            source.next = source.low


class PassesUnread(Lane):
    """The low-water passes what is decided, whether it was read or not."""

    def _advance(self, source: Any) -> None:
        super()._advance(source)
        if not source.window and self._reading:
            while source.decided.pop(source.next, None) is not None:
                source.next += 1
            source.low = source.next


class CommittedAtOnce(Cell):
    """The cut is committed to the consumer group before the sinks of its epoch are flushed."""

    def commit_group(self, slot: Slot) -> None:
        """Commit this cut, not the one before."""
        slot.committed = self.world.group[slot.number] = encode_cut(slot.lane.cut())


class SnapshotBeforeFlush(Cell):
    """The snapshot becomes the place to resume from before the sinks of its epoch are flushed."""

    def commit_group(self, slot: Slot) -> None:
        """Make it durable here."""
        super().commit_group(slot)
        slot.folder.cut = encode_cut(slot.lane.cut())


class RowsNotAwaited(Cell):
    """A snapshot holds the cut of its epoch, whose rows are still to be committed."""

    def resumable(self, slot: Slot) -> bytes:
        """The newest of all."""
        return encode_cut(slot.cuts[-1][0])


class RowsOfTheEpochBefore(Cell):
    """A snapshot holds the cut before its own, as if every epoch waited for the rows of the one before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._before: dict[Slot, Cut] = {}
        super().__init__(*args, **kwargs)

    def resumable(self, slot: Slot) -> bytes:
        """The one before the newest."""
        before = self._before.get(slot, slot.cuts[0][0])
        self._before[slot] = slot.cuts[-1][0]
        return encode_cut(before)


class GapsStall(Lane):
    """An offset without a message does not count as decided: the low-water waits for it."""

    def _advance(self, source: Any) -> None:
        low = source.low
        held = list(source.window)
        super()._advance(source)
        for message in held:
            if message.offset != low:
                break
            low += 1
        source.low = min(source.low, low)


class EndsStall(Lane):
    """Offsets without a message at the end of an input are waited for."""

    def pass_over(self, kafka_topic: str, position: int) -> None:
        """Wait."""


class NoSpan(Lane):
    """Messages are read however far they are above the low-water."""

    def room(self, kafka_topic: str) -> int:
        """Always."""
        return 1 << 20 if self._reading else 0


# -- cancels -------------------------------------------------------------------------------------------------------


class CancelsReadLate(Cell):
    """Cancels are followed, and not read to their end before anything is handed out."""

    def cancels_at_start(self) -> frozenset[tuple[str, str]]:
        """None is known yet."""
        return frozenset()


# -- the lake ------------------------------------------------------------------------------------------------------


class RowsNotDropped(Lake):
    """Rows at or below the version of their lane are committed again."""

    def stage(self, table: str, rows: list[Row]) -> tuple[int, list[Row]]:
        """Keep them all."""
        return self.commits[table], rows


class RowsTakenTwice(Cell):
    """A writer takes a row again that it holds and has not committed."""

    def add_row(self, table: str, row: Row) -> None:
        """Take it, whatever came before."""
        self.rows[table].append(row)


class CommitRetried(Lake):
    """A commit is tried again by itself when anybody else has committed, without a look at what is there now."""

    def log(self, table: str, seen: int, rows: list[Row]) -> bool:
        """Commit what was staged."""
        self.commit(table, rows)
        return True


class TableByBatch(Cell):
    """Which table a row goes to depends on the batch that it came in."""

    def stage(self, table: str, rows: list[Row]) -> tuple[int, list[Row]]:
        """A batch with many dead letters is left out of the records, as a gate over whole batches would do it."""
        if table == "dead_letters" and len(rows) > 1:
            rows = rows[:-1]
        return super().stage(table, rows)


class RoundsFirst(Cell):
    """`rounds` is committed before the other tables."""

    table_order = ("rounds", "records", "branches", "dead_letters")


# -- poison --------------------------------------------------------------------------------------------------------


class NoMarks(Lane):
    """Nothing is marked before it is handed out after an unclean end."""

    def begin_reading(self, ends: Mapping[str, int]) -> None:
        """Forget how the life before ended."""
        self._unclean = False
        super().begin_reading(ends)


class LaterOnesSuspected(Lane):
    """What came after a lane was opened may have been under way before that."""

    def begin_reading(self, ends: Mapping[str, int]) -> None:
        """Take no end for one."""
        super().begin_reading(dict.fromkeys(ends, 1 << 62))


class NobodyRunsAlone(Lane):
    """A message with marks runs with all others."""

    def hand_out(self, now: float, *, may_run_alone: bool = True) -> tuple[list[Message], list[Message]]:
        """Ask for the mark of everything at once."""
        handed, marks = super().hand_out(now, may_run_alone=may_run_alone)
        for queue in (self._few, self._alone):
            while queue:
                message = queue.popleft()
                self._ask_mark((message.kafka_topic, message.offset), message, marks)
        return handed, marks


class FewForEver(Lane):
    """A message with marks runs among few, never alone."""

    def hand_out(self, now: float, *, may_run_alone: bool = True) -> tuple[list[Message], list[Message]]:
        """Let those whose turn would be to run alone wait among the few."""
        handed, marks = super().hand_out(now, may_run_alone=may_run_alone)
        self._few.extend(self._alone)
        self._alone.clear()
        return handed, marks


class AloneInItsLaneOnly(Cell):
    """A message runs alone in its lane, while the other lanes of the process go on."""

    def hand_out(self, slot: Slot) -> None:
        """Ask every lane by itself."""
        slots, self.slots = self.slots, [slot]
        try:
            super().hand_out(slot)
        finally:
            self.slots = slots


class MarksBeforeItsTurn(Lane):
    """The mark is asked for when a message begins to wait for its turn to run alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turns: deque[Message] = deque()

    @property
    def wants_alone(self) -> bool:
        """Whether a message runs alone or waits for it."""
        return super().wants_alone or bool(self._turns)

    def hand_out(self, now: float, *, may_run_alone: bool = True) -> tuple[list[Message], list[Message]]:
        """Collect those with the mark that lets them run alone, and let them go one by one."""
        for message in list(self._marked_now):
            if message.verdict is None and message.level >= ALONE:
                self._marked_now.remove(message)
                self._turns.append(message)
        handed, marks = super().hand_out(now, may_run_alone=may_run_alone)
        while self._alone:
            message = self._alone.popleft()
            self._ask_mark((message.kafka_topic, message.offset), message, marks)
        while self._turns and self._lone is None and may_run_alone and not self._under_way and not self._marking:
            message = self._turns.popleft()
            if self._start(message, handed):
                self._lone = (message.kafka_topic, message.offset)
        return handed, marks


class SuspectsByOffset(Lane):
    """Suspect is what lies within a span of the low-water, or of what the log has decided."""

    def begin_reading(self, ends: Mapping[str, int]) -> None:
        """Bound the suspects by what is known now."""
        super().begin_reading(ends)
        for source in self._inputs.values():
            source.suspects = 0
            if self._unclean:
                source.suspect_below = max([source.low, *source.decided]) + self._span


class OrderlyForGood(Cell):
    """The word that a life has ended orderly is not taken back when the next one begins."""

    def note_opened(self, slot: Slot) -> None:
        """Leave the commit as it is."""
        slot.committed = slot.snapshot


class MarksOfDoublesKept(Lane):
    """The marks of a message that turns out to be a double are kept: R stays where they are."""

    def _repeated(self, source: Any, message: Message) -> None:
        name = (message.kafka_topic, message.offset)
        marks = self._marks.get(name)
        super()._repeated(source, message)
        if marks:
            self._marks[name] = marks


class InputBeforeLog(Cell):
    """Input is read before the log has been read to its end."""

    def _begin_reading(self, slot: Slot) -> None:
        end, slot.log_end = slot.log_end, 0
        super()._begin_reading(slot)
        slot.log_end = end


# -- sent again ----------------------------------------------------------------------------------------------------


class RedrivesOtherClaims(Redriver):
    """A message that claimed another's id, and died of that, is sent again under it."""

    def may(self, lane: int, entry: Said, task: Task) -> bool:
        """Look whether it was a task, alone."""
        return entry.reason != "bad_input"


class RedrivesWhatIsNoTask(Redriver):
    """A message that was no task, and owns no id, is sent again under the id that it has."""

    def may(self, lane: int, entry: Said, task: Task) -> bool:
        """Look at the reason alone."""
        return entry.reason != "id_conflict"


class AnybodyRedrives(Cell):
    """Whoever names a generation gets it."""

    def may_be(self, task: Task) -> bool:
        """Ask for no seal."""
        return True


class BranchesOfTheirParentsGeneration(Cell):
    """A branch is of its parent's generation."""

    def generation_of_branches(self, task: Task) -> int:
        """Take it over."""
        return task.generation


class Mutant(Struct, frozen=True):
    """The rules with one thing left out, the kinds of schedule that show it, how many of them are run in a test."""

    rules: Rules
    kinds: tuple[Kind, ...]
    schedules: int


MUTANTS: dict[str, Mutant] = {}
"""By what is left out."""


def _mutant(mutant: type, kinds: tuple[Kind, ...] = ("general",), schedules: int = 60) -> None:
    parts: dict[str, type] = {"lane": Lane, "cell": Cell, "lake": Lake, "redriver": Redriver}
    part = next(name for name, kind in parts.items() if issubclass(mutant, kind))
    rules = msgspec.structs.replace(TRUE, **{part: mutant})
    MUTANTS[(mutant.__doc__ or "").rstrip(".")] = Mutant(rules, kinds, schedules)


_mutant(SecondDecisionCounts)
_mutant(NamedByOffset)
_mutant(NoTaskIdCheck, ("broker",), schedules=200)
_mutant(NoLogCheck, ("broker",))
_mutant(NoInputCheck, ("broker",), schedules=1000)
_mutant(InputCheckedLate, ("broker",), schedules=9300)
_mutant(ClaimCounts, schedules=1500)
_mutant(FollowsFromMemory)
_mutant(TooLargeWins, schedules=400)
_mutant(ProducerGivesUp)
_mutant(DecidedCausesNotRegistered)
_mutant(CausesPerTopic, schedules=400)
_mutant(CutHoldsNewestCauses)
_mutant(CutHoldsNoCauses, schedules=400)
_mutant(RetryForwarded)
_mutant(ForgedCausesAccepted)
_mutant(SealWithoutPlace, schedules=400)
_mutant(DoubleDropped)
_mutant(AdmittedWhenDue, schedules=400)
_mutant(DoublesWaitUntilDue, schedules=1300)
_mutant(NoOwners, schedules=400)
_mutant(MovedSkipsIds)
_mutant(BranchesSkipIds, schedules=300)
_mutant(NotMoved)
_mutant(IndexNotRebuilt, schedules=300)
_mutant(IndexNamedByCut, schedules=1500)
_mutant(CopyNamedByLog, schedules=1500)
_mutant(BetweenNotRead)
_mutant(ReadsFromAdvanced)
_mutant(PassesUnread)
_mutant(InputBeforeLog, ("general", "poison"))
_mutant(CommittedAtOnce, schedules=300)
_mutant(SnapshotBeforeFlush)
_mutant(RowsNotAwaited)
_mutant(RowsOfTheEpochBefore, schedules=150)
_mutant(GapsStall)
_mutant(EndsStall)
_mutant(NoSpan)
_mutant(CancelsReadLate, schedules=1200)
_mutant(RowsNotDropped)
_mutant(RowsTakenTwice, schedules=2000)
_mutant(CommitRetried, schedules=300)
_mutant(TableByBatch)
_mutant(RoundsFirst)
_mutant(NoMarks, ("poison",))
_mutant(LaterOnesSuspected, ("general", "poison"))
_mutant(NobodyRunsAlone, ("poison",))
_mutant(FewForEver, ("poison",))
_mutant(AloneInItsLaneOnly, ("poison",), schedules=300)
_mutant(MarksBeforeItsTurn, ("poison",))
_mutant(SuspectsByOffset, ("poison",), schedules=1000)
_mutant(OrderlyForGood, schedules=2300)
_mutant(MarksOfDoublesKept, schedules=300)
_mutant(RedrivesOtherClaims, schedules=400)
_mutant(RedrivesWhatIsNoTask, schedules=400)
_mutant(AnybodyRedrives)
_mutant(BranchesOfTheirParentsGeneration, schedules=1500)
