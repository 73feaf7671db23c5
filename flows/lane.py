"""The lane: what makes Aureon exact, as a state machine without I/O, clock or thread.

A lane is partition number *p* of several input Kafka topics and of one log, `tasks.results`. Whoever drives it

    1. reads the log from `log_start` to its end, each entry through `log`,
    2. calls `begin_reading`, then reads each input from `position`, each message through `read`,
    3. hands out what `hand_out` returns, appends the marks it asks for,
    4. goes on with 1 and 2 as both grow,
    5. takes a `cut` whenever all that follows from the log so far is on its way.

Entries for which `log` answers True are the winning decisions: all that follows from them is to be delivered. To
resume is to build a new lane from a cut and to start at 1; an older cut is as good as a newer one.

What goes next: the inputs take turns by their weights. In each, the more urgent goes before the less urgent, whatever
its topic, and at one priority the topics take turns. No topic gets all the places that there are (`SHARE`): those kept
for others are theirs even where they are less urgent.
"""

import hashlib
import hmac
from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct

from flows.cut import Cut, TopicCut
from flows.fair import FairQueue
from schemas.decision import DecisionKind
from schemas.errors import LogMismatchError
from schemas.ids import Owner

TOGETHER, APART, ALONE = 1, 2, 3
"""How a message runs after an unclean end, told by its `started` mark: with all others, among few, with none. One that
was under way at another unclean end goes a level up; above the last one it is dead. Marks are compared by level and
not counted: a process that was thought dead and its successor both mark what they hand out."""
FEW = 32
"""So many run apart at a time. One by one, a window of innocent messages would take hours after two kills in a row."""
SHARE = 8
"""A topic takes another place only while it has at most so many times what is free. One alone gets 8 of 9, and another
that comes finds a place at once, however long the calls of the first take. Switches share their memory among ports in
this way (Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998)."""

CauseName = tuple[int, int, int]
"""(lane, offset of the decision, index among what follows from it)."""
IntakeVerdict = Literal["bad_input", "moved", "id_conflict", "poison", "cancelled"]
"""What intake already knows of a message that no model has to be asked about."""


class Message(Struct, kw_only=True, gc=False):
    """One message of an input Kafka topic, as far as the lane looks at it."""

    kafka_topic: str
    offset: int
    task_id: str
    topic: str = ""
    """Topics take turns; those that are no task take theirs together, as one more."""
    cause: CauseName | None = None
    key: bytes | None = None
    """Digest of (topic, logical id, generation) where the message introduces the id here, else None."""
    digest: str = ""
    """Of the payload, where `key` is set."""
    priority: int = 0
    due_at: float = 0.0
    """Not handed out before this time, in seconds since the epoch; rises with the offset."""
    size: int = 0
    """In bytes."""
    verdict: IntakeVerdict | None = None
    level: int = 0
    """How it runs after an unclean end; it is told by its mark."""
    lane: int = 0
    """Where it was read."""
    body: Any = None
    """What the steps behind need; never looked at here."""


class Entry(Protocol):
    """One entry of the log, as far as the lane looks at it; a `schemas.decision.Decision` is one."""

    @property
    def kind(self) -> DecisionKind:
        """What it is."""
        ...

    @property
    def kafka_topic(self) -> str:
        """Of the message that it is about."""
        ...

    @property
    def offset(self) -> int:
        """Of that message."""
        ...

    @property
    def task_id(self) -> str:
        """Of that message."""
        ...

    @property
    def introduces(self) -> bool:
        """Whether the message is the first with its id."""
        ...

    @property
    def payload_digest(self) -> str:
        """Of the message's payload."""
        ...

    @property
    def level(self) -> int:
        """Of a mark: how the message runs."""
        ...


class Owners(Protocol):
    """The index of ids: a function of the log up to `next_offset`."""

    next_offset: int

    def get(self, key: bytes) -> Owner | None:
        """Look an id up."""
        ...

    def put(self, key: bytes, owner: Owner) -> None:
        """Note the owner of an id that has none yet."""
        ...


class Window(Struct, frozen=True):
    """What a lane has of one input."""

    low: int
    """The first message without a decision."""
    next: int
    """The first that was not read."""
    held: int
    """Bytes of those between."""


def id_key(topic: str, logical_id: str, generation: int) -> bytes:
    """Shorten (topic, logical id, generation) to 128 bits."""
    return hashlib.blake2b(f"{generation}\0{topic}\0{logical_id}".encode(), digest_size=16).digest()


class Sealer:
    """Seals causes with the cluster's key: BLAKE2b, keyed, 96 bits (RFC 7693)."""

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes) -> None:
        self._keyed = hashlib.blake2b(digest_size=12, key=key)

    def seal(self, cause: CauseName, task_id: str, kafka_topic: str, lane: int, decision_hash: str = "") -> str:
        """Bind a cause, with the hash of its decision, to the message that carries it and to where it was sent."""
        text = f"{cause[0]},{cause[1]},{cause[2]},{lane},{kafka_topic},{task_id}"
        if decision_hash:  # a seal from before begins with a number
            text = f"{decision_hash};{text}"
        keyed = self._keyed.copy()
        keyed.update(text.encode())
        return keyed.hexdigest()

    def holds(
        self, seal: str, cause: CauseName, task_id: str, kafka_topic: str, lane: int, decision_hash: str = ""
    ) -> bool:
        """Tell whether the cluster itself has sealed this."""
        return hmac.compare_digest(seal.encode(), self.seal(cause, task_id, kafka_topic, lane, decision_hash).encode())


REDRIVE = "redrive"
"""What a seal says instead of a Kafka topic where it is that of a redrive."""


class _Ready:
    """Messages of an input that may be handed out."""

    __slots__ = ("_levels", "_priorities")

    def __init__(self) -> None:
        self._levels: dict[int, FairQueue[Message]] = {}  # by priority; none is empty
        self._priorities: list[int] = []  # the same, the most urgent first

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._priorities)

    def put(self, message: Message) -> None:
        """Add one."""
        priority = message.priority
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = FairQueue()
            insort(self._priorities, priority)
        level.put(message.topic, message)

    def take(self, may_go: Callable[[str], bool]) -> Message | None:
        """Take the next one of a topic that may go."""
        for priority in self._priorities:
            level = self._levels[priority]
            message = level.take(may_go)
            if message is not None:
                if not level:
                    del self._levels[priority]
                    self._priorities.remove(priority)
                return message
        return None


class _Input:
    """One input Kafka topic of the lane."""

    __slots__ = (
        "below",
        "decided",
        "delayed",
        "done",
        "end_at_opening",
        "held",
        "low",
        "next",
        "ready",
        "seen",
        "stride",
        "suspect_below",
        "suspects",
        "turn",
        "window",
    )

    def __init__(self, cut: TopicCut | None, weight: int) -> None:
        self.low = cut.low if cut else 0
        self.next = self.low
        self.below: dict[int, tuple[int, int]] = dict(cut.causes) if cut else {}
        # the newest causes read; those of messages at or above the low-water are registered again as they are read
        self.seen: dict[int, tuple[int, int]] = dict(self.below)
        # offset -> (log offset, task id), for messages at or above the low-water, whether read yet or not
        self.decided: dict[int, tuple[int, str]] = {}
        self.done: set[int] = set()  # duplicates: they count as decided
        self.window: deque[Message] = deque()  # all messages read at or above the low-water, in order
        self.delayed: deque[Message] = deque()  # not due yet
        self.ready = _Ready()
        self.held = 0  # bytes in the window
        self.stride = 1.0 / weight
        self.turn = 0.0
        self.suspects = 0  # how many more messages the life before may have had in its window
        self.end_at_opening = 0  # what came later it has not had
        self.suspect_below = 0


class Lane:
    """One lane; see the module.

    Args:
        lane: its number.
        inputs: its input Kafka topics, each with the weight by which it gets turns.
        owners: the index of ids.
        cut: where to resume; None for the beginning.
        span: how far above a low-water messages are read, in offsets.
        in_flight: how many messages may be handed out and undecided at a time.
        at_first: how many at first, if that is less; one more with each that is decided.
        window_bytes: how many bytes of messages of one input are held, about.
        few: how many messages run apart at a time.
        unclean: the life before may have ended with messages under way, and of one of them.
    """

    def __init__(
        self,
        lane: int,
        inputs: Mapping[str, int],
        owners: Owners,
        cut: Cut | None = None,
        *,
        span: int = 8192,
        in_flight: int = 2048,
        at_first: int | None = None,
        window_bytes: int = 1 << 26,
        few: int = FEW,
        unclean: bool = False,
    ) -> None:
        topics: Mapping[str, TopicCut] = cut.topics if cut else {}
        self.lane = lane
        self._inputs = {name: _Input(topics.get(name), weight) for name, weight in inputs.items()}
        self._owners = owners
        self._follow_from = cut.log if cut else 0
        self.log_start = log_start(cut, owners)
        self.log_next = self.log_start
        self._span = span
        self._limit = in_flight
        self._at_most = in_flight if at_first is None else min(at_first, in_flight)
        self._window_bytes = window_bytes
        self._reading = False

        self._waiting: dict[bytes, list[Message]] = {}  # ids under way -> doubles that wait
        self._under_way: dict[tuple[str, int], Message] = {}
        self._places: dict[str, int] = {}  # topic -> how many of its messages are under way or wait for their mark
        self._turn = 0.0

        self._unclean = unclean
        self._few_at_a_time = few
        self._marks: dict[
            tuple[str, int], tuple[int, int]
        ] = {}  # (topic, offset) -> log offset, highest level of marks
        self._marking: dict[tuple[str, int], Message] = {}  # the mark is asked for and not yet read back
        self._marked_now: deque[Message] = deque()  # the mark has been read back
        self._few: deque[Message] = deque()  # each waits for its turn, and only then asks for its mark
        self._band: set[tuple[str, int]] = set()  # those of them that run now
        self._alone: deque[Message] = deque()  # they wait in the same way
        self._lone: tuple[str, int] | None = None  # whose turn it is

        self.duplicates = 0
        self.losing = 0

    def check_log(self, begin: int, end: int) -> None:
        """Compare what the log holds, from `begin` to before `end`, with what this lane remembers of it.

        Raises:
            LogMismatchError: it begins after the place to resume from, or ends before what was read of it.
        """
        known = max(self._follow_from, self._owners.next_offset)
        if begin > self.log_start:
            raise LogMismatchError(
                f"tasks.results[{self.lane}] begins at {begin}, after {self.log_start}, where this lane has to resume: "
                "set retention.ms=-1 on it and restore it, or start over with a new cluster and a new lake."
            )
        if end < known:
            raise LogMismatchError(
                f"tasks.results[{self.lane}] ends at {end}, but entries up to {known} were read from it: the broker "
                "has lost messages that it had acknowledged. Restore the broker, or start over with a new cluster "
                "and a new lake."
            )

    def check_input(self, kafka_topic: str, begin: int, end: int, log_end: int) -> None:
        """Compare what an input holds, from `begin` to before `end`, with what this lane knows of it.

        Both are to be asked for at the start, before anything that follows from the log is sent and fills what is
        missing; what the log says is known once it has been read.

        Args:
            kafka_topic: the input.
            begin: its first offset.
            end: its end.
            log_end: where the log ended before that: of later entries `end` says nothing.

        Raises:
            LogMismatchError: it begins after the place to read from, or ends before that or before what is decided.
        """
        source = self._inputs[kafka_topic]
        known = max([source.next, *(number + 1 for number, (at, _) in source.decided.items() if at < log_end)])
        if not begin <= source.next or end < known:
            raise LogMismatchError(
                f"{kafka_topic}[{self.lane}] holds offsets {begin} to {end}, but this lane has to read from "
                f"{source.next}, and messages up to {known} were there: the broker no longer has what it had "
                "acknowledged. Set retention.ms=-1 on it and restore the broker, or start over with a new cluster and "
                "a new lake."
            )

    # -- the log ---------------------------------------------------------------------------------------------------

    def log(self, offset: int, entry: Entry) -> bool:
        """Take in one entry of the log.

        Returns:
            True when it is a winning decision from which all follows now.

        Raises:
            LogMismatchError: it names a message that is another one in the input.
        """
        self.log_next = offset + 1
        source = self._inputs.get(entry.kafka_topic)
        if source is None:
            raise LogMismatchError(
                f"tasks.results[{self.lane}]@{offset} decides a message of {entry.kafka_topic!r}, which is no input "
                "here"
            )
        number = entry.offset
        if number < source.low or number in source.decided or number in source.done:
            self.losing += entry.kind is not DecisionKind.STARTED
            if not (offset < self._follow_from and entry.introduces):
                return False
            # an index of ids older than the cut: the first entry about an id is its owner, whoever wrote it
            self._own(entry, self._key_of(entry))
            return False

        message = self._under_way.get((entry.kafka_topic, number)) or self._find(source, number)
        if message is not None and message.task_id != entry.task_id:
            raise LogMismatchError(self._mismatch(offset, entry, message.task_id))
        if entry.kind is DecisionKind.STARTED:
            self._marked(offset, entry)
            return False

        follows = True
        if entry.introduces:
            owner = self._own(entry, message.key if message is not None and message.key else self._key_of(entry))
            follows = owner.offset == number and owner.kafka_topic == entry.kafka_topic
            if not follows and owner.digest != entry.payload_digest:
                self._refuse(entry, message)
                return False
            self.duplicates += not follows
        source.decided[number] = (offset, entry.task_id)
        self._settle(entry.kafka_topic, number)
        self._advance(source)
        return follows and offset >= self._follow_from

    @staticmethod
    def _key_of(entry: Any) -> bytes:
        return id_key(entry.topic, entry.logical_id, entry.generation)

    def _own(self, entry: Entry, key: bytes) -> Owner:
        """Give the id to the message if nobody owns it; say who does."""
        waiting = self._waiting.pop(key, None)
        # an id under way has no owner: it was looked up when it was admitted, and an owner ends the waiting
        owner = self._owners.get(key) if waiting is None else None
        if owner is None:
            owner = Owner(entry.kafka_topic, entry.offset, entry.payload_digest)
            self._owners.put(key, owner)
        for double in waiting or ():
            if double.offset != owner.offset or double.kafka_topic != owner.kafka_topic:
                self._double(double, owner)
        return owner

    def _refuse(self, entry: Entry, message: Message | None) -> None:
        """A decision that claims an id which another payload owns counts for nothing: the conflict has to be told.

        Two messages with one id are both under way when two processes have the lane, and read its inputs in turns of
        their own.
        """
        self.losing += 1
        if message is None:
            return  # it will be known for what it is when it is read
        message.verdict = "id_conflict"
        name = (entry.kafka_topic, entry.offset)
        self._band.discard(name)
        if self._lone == name:
            self._lone = None
        if self._under_way.pop(name, None) is not None:
            self._give_back(message.topic)
            self._offer(message)

    def _double(self, message: Message, owner: Owner) -> None:
        """A message with an id that another one owns: the same again, or a conflict that has to be told."""
        source = self._inputs[message.kafka_topic]
        if message.offset in source.decided or message.offset < source.low:
            return
        if message.digest == owner.digest:
            self._repeated(source, message)
        else:
            message.verdict = "id_conflict"
            self._offer(message)

    def _repeated(self, source: _Input, message: Message) -> None:
        """A message that is another one once more counts as decided."""
        self.duplicates += 1
        source.done.add(message.offset)
        self._marks.pop((message.kafka_topic, message.offset), None)
        self._advance(source)

    def _mismatch(self, offset: int, entry: Entry, found: str) -> str:
        return (
            f"tasks.results[{self.lane}]@{offset} decides {entry.kafka_topic}[{self.lane}]@{entry.offset} as task "
            f"{entry.task_id!r}, but that message is {found!r}: the broker has lost messages that it had acknowledged "
            "and used their offsets again. Restore the broker, or start over with a new cluster and a new lake."
        )

    @staticmethod
    def _find(source: _Input, number: int) -> Message | None:
        """The message with this offset, where it has been read and is at or above the low-water."""
        window = source.window
        if number >= source.next:
            return None
        at = number - window[0].offset
        # offsets are nearly always dense, so the guess is nearly always right
        if 0 <= at < len(window) and window[at].offset == number:
            return window[at]
        return next((m for m in window if m.offset == number), None)

    def _settle(self, kafka_topic: str, number: int) -> None:
        """A message is decided: it is no longer under way."""
        name = (kafka_topic, number)
        self._band.discard(name)
        if self._lone == name:
            self._lone = None
        self._marks.pop(name, None)
        message = self._under_way.pop(name, None) or self._marking.pop(name, None)
        if message is not None:
            self._give_back(message.topic)
            if self._at_most < self._limit:
                self._at_most += 1

    def _advance(self, source: _Input) -> None:
        """Raise the low-water over all that is decided; nothing is passed that was not read."""
        window, decided, done, below = source.window, source.decided, source.done, source.below
        while window:
            first = window[0]
            if decided.pop(first.offset, None) is None:
                if first.offset not in done:
                    break
                done.remove(first.offset)
            window.popleft()
            source.held -= first.size
            cause = first.cause
            if cause is not None:
                known = below.get(cause[0])
                if known is None or known < cause[1:]:
                    below[cause[0]] = (cause[1], cause[2])
        source.low = window[0].offset if window else source.next

    # -- the input -------------------------------------------------------------------------------------------------

    def begin_reading(self, ends: Mapping[str, int]) -> None:
        """The log has been read to its end: from now on what is decided is known, and input may be read.

        Args:
            ends: where each input ended when the lane was opened, after an unclean end of the life before. That had at
                most a span of messages in its window, from the first undecided one on, and none that came later. One
                that was thought dead may have had them: a process it brings down ends uncleanly once more, that is all.
        """
        self._reading = True
        if self._unclean:
            for kafka_topic, source in self._inputs.items():
                source.suspects = self._span
                source.end_at_opening = ends[kafka_topic]

    def position(self, kafka_topic: str) -> int:
        """The offset from which to read on."""
        return self._inputs[kafka_topic].next

    def room(self, kafka_topic: str) -> int:
        """How many messages may be read now: all that the window holds, so that the topics in it can take turns."""
        source = self._inputs[kafka_topic]
        if not self._reading or source.held >= self._window_bytes:
            return 0
        return max(0, source.low + self._span - source.next)

    def read(self, message: Message) -> None:
        """Take in one message of an input; each Kafka topic in the order of its offsets.

        Raises:
            LogMismatchError: the log has decided another message under this name.
        """
        if not self._reading:
            raise RuntimeError("the log has to be read to its end first")
        source = self._inputs[message.kafka_topic]
        if message.offset > source.next:
            self._check_gap(message.kafka_topic, source, message.offset)
        source.next = message.offset + 1
        source.window.append(message)
        source.held += message.size
        repeated = message.cause is not None and not self._register(source, message.cause)
        decided = source.decided.get(message.offset)
        if decided is not None:
            if decided[1] != message.task_id:
                raise LogMismatchError(
                    f"{message.kafka_topic}[{self.lane}]@{message.offset} is task {message.task_id!r}, but "
                    f"tasks.results[{self.lane}]@{decided[0]} has decided it as {decided[1]!r}: the broker has lost "
                    "messages that it had acknowledged and used their offsets again. Restore the broker, or start "
                    "over with a new cluster and a new lake."
                )
            self._advance(source)
        elif repeated:
            self._repeated(source, message)
        elif message.due_at and (message.key is None or self._owners.get(message.key) is None):
            source.delayed.append(message)
        else:
            self._admit(message)
        if source.suspects and source.window and message.offset < source.end_at_opening:
            source.suspects -= 1
            source.suspect_below = message.offset + 1

    def pass_over(self, kafka_topic: str, position: int) -> None:
        """Nothing more is to be read of an input below this offset: a transaction leaves such offsets at its end.

        Raises:
            LogMismatchError: the log has decided a message that would be there.
        """
        source = self._inputs[kafka_topic]
        if position > source.next:
            self._check_gap(kafka_topic, source, position)
            source.next = position
            self._advance(source)

    def _check_gap(self, kafka_topic: str, source: _Input, until: int) -> None:
        """Offsets without a message are no messages that were decided."""
        for number, (offset, task_id) in source.decided.items():
            if source.next <= number < until:
                raise LogMismatchError(
                    f"tasks.results[{self.lane}]@{offset} decides {kafka_topic}[{self.lane}]@{number} as task "
                    f"{task_id!r}, but that message is gone: the broker has lost messages that it had acknowledged. "
                    "Restore the broker, or start over with a new cluster and a new lake."
                )

    @staticmethod
    def _register(source: _Input, cause: CauseName) -> bool:
        """Note a cause; False when it was seen before."""
        known = source.seen.get(cause[0])
        if known is not None and cause[1:] <= known:
            return False
        source.seen[cause[0]] = (cause[1], cause[2])
        return True

    def _admit(self, message: Message) -> None:
        """Offer a message, unless its id has an owner or is under way."""
        key = message.key
        if key is None:
            self._offer(message)
            return
        owner = self._owners.get(key)
        if owner is not None:
            if owner.kafka_topic == message.kafka_topic and owner.offset == message.offset:
                raise LogMismatchError(
                    f"{message.kafka_topic}[{self.lane}]@{message.offset} owns its id {message.task_id!r}, but "
                    f"tasks.results[{self.lane}] no longer has its decision. Restore the broker, or start over with a "
                    "new cluster and a new lake."
                )
            self._double(message, owner)
        elif key in self._waiting:
            self._waiting[key].append(message)
        else:
            self._waiting[key] = []
            self._offer(message)

    def _offer(self, message: Message) -> None:
        source = self._inputs[message.kafka_topic]
        if not source.ready:
            source.turn = max(source.turn, self._turn)
        source.ready.put(message)

    # -- handing out -----------------------------------------------------------------------------------------------

    def hand_out(self, now: float, *, may_run_alone: bool = True) -> tuple[list[Message], list[Message]]:
        """Choose what goes next, as far as there is room.

        Args:
            now: seconds since the epoch.
            may_run_alone: no other lane of this process has anything under way. What brings the process down takes all
                of it along, so while one lane `wants_alone`, its driver hands out from no other.

        Returns:
            The messages to work on, and those for which a `started` mark is to be appended to the log first; these
            are handed out once the mark has been read back.
        """
        self._admit_due(now)
        handed: list[Message] = []
        marks: list[Message] = []
        while self._marked_now:
            self._start(self._marked_now.popleft(), handed)
        if self.wants_alone:
            if may_run_alone and len(self._under_way) + len(self._marking) == len(self._band):
                self._next_few(marks)
            return handed, marks
        room = self._at_most - len(self._under_way) - len(self._marking)
        places = self._places

        def may_go(topic: str) -> bool:
            return places.get(topic, 0) <= SHARE * room

        inputs = [source for source in self._inputs.values() if source.ready]
        while room > 0 and (message := self._next(inputs, may_go)) is not None:
            source = self._inputs[message.kafka_topic]
            if self._is_settled(source, message):
                continue
            name = (message.kafka_topic, message.offset)
            if message.offset >= source.suspect_below:
                room -= self._start(message, handed)
            else:
                room -= self._suspect(name, message, handed, marks)
        return handed, marks

    def _next(self, inputs: list[_Input], may_go: Callable[[str], bool]) -> Message | None:
        """Take what goes next; an input that has nothing more which may go leaves the list."""
        while inputs:
            source = inputs[0]
            for one in inputs:  # `min` with a key nearly doubles what handing out costs
                if one.turn < source.turn:
                    source = one
            message = source.ready.take(may_go)
            if message is None or not source.ready:
                inputs.remove(source)
            if message is not None:
                self._turn = source.turn
                source.turn += source.stride
                return message
            source.turn = max(source.turn, self._turn)  # who may not go saves up no turns
        return None

    def _suspect(self, name: tuple[str, int], message: Message, handed: list[Message], marks: list[Message]) -> bool:
        """A message that may have been under way at an unclean end; tell whether it takes up room now."""
        if message.level:  # offered anew in this life, which has marked it
            return self._start(message, handed)
        message.level = self._marks.get(name, (0, 0))[1] + 1
        if message.level == APART:
            self._few.append(message)
        elif message.level == ALONE:
            self._alone.append(message)
        elif message.level == TOGETHER:
            self._ask_mark(name, message, marks)
            return True
        else:
            message.verdict = message.verdict or "poison"
            return self._start(message, handed)
        return False

    def _admit_due(self, now: float) -> None:
        for source in self._inputs.values():
            while source.delayed and source.delayed[0].due_at <= now:
                message = source.delayed.popleft()
                if not self._is_settled(source, message):  # another process that has the lane may have decided it
                    self._admit(message)

    @property
    def wants_alone(self) -> bool:
        """Whether messages run apart or wait for it: nothing else in this process is to be handed out."""
        return bool(self._few or self._band or self._alone) or self._lone is not None

    def _next_few(self, marks: list[Message]) -> None:
        """Let the next ones run apart. Their marks come now and not before: one that only waited must not count."""
        while self._few and len(self._band) < self._few_at_a_time:
            message = self._few.popleft()
            if not self._is_settled(self._inputs[message.kafka_topic], message):
                name = (message.kafka_topic, message.offset)
                self._band.add(name)
                self._ask_mark(name, message, marks)
        if self._band:
            return
        while self._alone:
            message = self._alone.popleft()
            if not self._is_settled(self._inputs[message.kafka_topic], message):
                self._lone = (message.kafka_topic, message.offset)
                self._ask_mark(self._lone, message, marks)
                return

    def _ask_mark(self, name: tuple[str, int], message: Message, marks: list[Message]) -> None:
        self._marking[name] = message
        self._take_place(message.topic)
        marks.append(message)

    @staticmethod
    def _is_settled(source: _Input, message: Message) -> bool:
        return message.offset < source.low or message.offset in source.decided

    def _start(self, message: Message, handed: list[Message]) -> bool:
        if self._is_settled(self._inputs[message.kafka_topic], message):
            return False
        self._under_way[message.kafka_topic, message.offset] = message
        self._take_place(message.topic)
        handed.append(message)
        return True

    def _take_place(self, topic: str) -> None:
        self._places[topic] = self._places.get(topic, 0) + 1

    def _give_back(self, topic: str) -> None:
        self._places[topic] -= 1
        if not self._places[topic]:
            del self._places[topic]

    def _marked(self, offset: int, entry: Entry) -> None:
        """A mark has been read: note it, and hand its message out if it was waiting for it."""
        name = (entry.kafka_topic, entry.offset)
        first, level = self._marks.get(name, (offset, 0))
        self._marks[name] = (first, max(level, entry.level))
        message = self._marking.pop(name, None)
        if message is not None:
            self._give_back(message.topic)
            self._marked_now.append(message)

    # -- the cut ---------------------------------------------------------------------------------------------------

    def cut(self) -> Cut:
        """Take the cut at the present end of the log; everything handed to the driver so far must be on its way."""
        at = max(self.log_next, self._follow_from)
        oldest = [self.log_next]
        for source in self._inputs.values():
            oldest.extend(offset for offset, _ in source.decided.values())
        oldest.extend(first for first, _ in self._marks.values())
        topics = {name: TopicCut(s.low, dict(s.below)) for name, s in self._inputs.items()}
        return Cut(self.lane, at, min(oldest), topics)

    @property
    def under_way(self) -> int:
        """How many messages are handed out and undecided."""
        return len(self._under_way)

    def windows(self) -> dict[str, Window]:
        """How far each input is; any thread may look."""
        return {name: Window(s.low, s.next, s.held) for name, s in self._inputs.items()}


def log_start(cut: Cut | None, owners: Owners) -> int:
    """Say from where a lane reads its log."""
    return min(cut.resume_from, owners.next_offset) if cut else 0
