"""supervise: may this result pass, and with what score; the policies are in `flows.supervision`."""

from collections.abc import Callable

from flows.accepted import Accepted, AcceptedRecords
from flows.budget import NOTHING, UNLIMITED, Spent
from flows.items import Answered, Supervised, Work
from flows.lane import Message
from flows.supervision import Case, Health, Supervisor
from flows.supervision.health import TopicRecord
from schemas.decision import RoundResult, Seen
from schemas.errors import BadRecordError
from schemas.task import read_digest


class Supervision:
    """Lays results before the policies; threads may share it.

    Args:
        supervisor: the policies.
        max_rounds: as the settings have it.
        topics: how the topics fare.
        records: which questions have a record already.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        max_rounds: int,
        topics: TopicRecord | None = None,
        records: AcceptedRecords | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._max_rounds = max_rounds
        self._get_health = (topics or TopicRecord()).health
        self._records = records or AcceptedRecords()

    def supervise(self, answered: Answered, result: RoundResult) -> Supervised:
        """Note what the policies find of a result; one that is rejected, or has no answer, has the score 0."""
        look_up = _LookUp(self._records, answered.routed.message)
        get_health = _GetHealth(self._get_health)
        examined = self._supervisor.examine(self._case(answered, result, look_up, get_health))
        if look_up.found is None and not get_health.found:
            return Supervised(answered, examined)
        found = look_up.found
        accepted = (found.logical_id, found.answer, found.evidence) if found is not None else None
        return Supervised(answered, examined, Seen(accepted=accepted, health=get_health.found))

    def _case(self, answered: Answered, result: RoundResult, look_up: "_LookUp", get_health: "_GetHealth") -> Case:
        message = answered.routed.message
        work: Work = message.body
        task = work.task
        origin = task.origin
        return Case(
            result,
            task.topic,
            task.logical_id,
            task.generation,
            task.round_index,
            task.attempt,
            self._max_rounds,
            work.view,
            answered.answers,
            answered.spent,
            Spent(origin.calls, origin.tokens, origin.cost) if origin is not None else NOTHING,
            answered.routed.allowance or UNLIMITED,
            look_up,
            get_health,
        )


class _LookUp:
    """Finds the record of a message's question, once it is asked for, and keeps it."""

    __slots__ = ("_message", "_records", "found")

    def __init__(self, records: AcceptedRecords, message: Message) -> None:
        self._records = records
        self._message = message
        self.found: Accepted | None = None

    def __call__(self) -> Accepted | None:
        """Look it up; a later round has to digest its payload for that."""
        if not self._records.count:
            return None
        message = self._message
        task = message.body.task
        try:
            found = self._records.record_of(task.topic, message.digest or read_digest(task))
        except BadRecordError:
            return None
        self.found = found if found is None or found.logical_id != task.logical_id else None
        return self.found


class _GetHealth:
    """Tells how a topic fares, and keeps what it told."""

    __slots__ = ("_get", "found")

    def __init__(self, get: Callable[[str, int], Health]) -> None:
        self._get = get
        self.found: dict[int, tuple[int, int]] = {}

    def __call__(self, topic: str, last: int) -> Health:
        """Look it up."""
        health = self._get(topic, last)
        self.found[last] = health.rejected, health.examined
        return health
