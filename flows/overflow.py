"""What is too large for Kafka: into the blob store on its way out of a cell, and back on its way in.

Inside a cell payloads and answers are whole; in decisions, in all that follows from them, and in the lake, those above
a limit are references. So a task is the same task whichever way its payload came.
"""

from typing import Any

import msgspec
from msgspec import Raw

from connectors.blobs import BlobStore
from schemas.blob import REFERENCE_START, SHORTEST_REFERENCE, BlobReference, read_reference, reference_in
from schemas.decision import Decision, FollowUp, RoundResult
from schemas.errors import BadRecordError
from schemas.node import Answer
from schemas.task import AWAY, Origin, PayloadView, TaskDescriptor, encode, read_head, read_payload


class Overflow:
    """Exchanges what is large for references, and back.

    Args:
        store: where it goes.
        limit: of a payload or an answer, so many bytes stay where they are.
    """

    def __init__(self, store: BlobStore, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._any_reach = min(limit // 4 + 1, SHORTEST_REFERENCE)
        """A text of fewer characters is neither above the limit (at four bytes each) nor looks like a reference."""

    # -- in --------------------------------------------------------------------------------------------------------

    def task_back(self, task: TaskDescriptor, view: PayloadView) -> tuple[TaskDescriptor, PayloadView]:
        """Give a task its payload and its earlier answer back, where they are references.

        Args:
            task: the task.
            view: its payload, as Aureon reads it, or `AWAY`.

        Raises:
            BadRecordError: a blob is not there, or is not what it should be; it is named.
            TryAgainError: the store cannot be reached.
        """
        payload, origin = task.payload, task.origin
        if view is AWAY:
            reference = read_reference(bytes(payload))
            payload = payload if reference is None else Raw(self._get(reference, "payload"))
            view = read_payload(bytes(payload))
        if origin is not None and origin.answer is not None:
            answer = reference_in(origin.answer)
            if answer is not None:
                origin = msgspec.structs.replace(origin, answer=self._get(answer, "origin.answer").decode())
        return msgspec.structs.replace(task, payload=payload, origin=origin), view

    def _get(self, reference: BlobReference, field: str) -> bytes:
        try:
            return self._store.get(reference)
        except BadRecordError as error:
            raise BadRecordError(f"{error} - at `$.{field}`") from None

    # -- out -------------------------------------------------------------------------------------------------------

    def payload_out(self, payload: Raw) -> Raw:
        """Keep a payload that is above the limit, and give its reference; any other stays what it is.

        Raises:
            TryAgainError: the store cannot be reached.
            ValueError: more than any store takes.
        """
        if len(payload) <= self._limit:
            return payload
        return Raw(encode(self._store.put(bytes(payload))))

    def keep(self, data: bytes) -> None:
        """Keep what decisions name by its hash.

        Raises:
            TryAgainError: the store cannot be reached.
        """
        self._store.put(data)

    def text_out(self, text: str) -> str:
        """Keep an answer that is above the limit, or looks like a reference; any other stays what it is.

        Raises:
            TryAgainError: the store cannot be reached.
            ValueError: more than any store takes, or no text.
        """
        if len(text) < self._any_reach:
            return text
        if not text.startswith(REFERENCE_START):
            if len(text) * 4 <= self._limit:
                return text
            data = text.encode()
            if len(data) <= self._limit:
                return text
        else:
            data = text.encode()
        return encode(self._store.put(data)).decode()

    def decision_out(self, decision: Decision) -> Decision:
        """Keep all that is too large in a decision; what follows from it carries the references.

        Raises:
            TryAgainError: the store cannot be reached.
            ValueError: more than any store takes, or no text.
        """
        if self._is_small(decision):
            return decision
        changes: dict[str, Any] = {}
        payload = self.payload_out(decision.payload)
        if payload is not decision.payload:
            changes["payload"] = payload
        result, origin = decision.result, decision.origin
        carries_answer = False
        if result is not None:
            lighter = self._result_out(result)
            if lighter is not result:
                changes["result"] = lighter
                carries_answer = lighter.answer is not result.answer
        if origin is not None and origin.answer is not None:
            lighter_origin = self._origin_out(origin)
            if lighter_origin is not origin:
                changes["origin"] = lighter_origin
                carries_answer = True
        if decision.follow_ups:
            follow_ups = tuple([self._follow_up_out(f, carries_answer=carries_answer) for f in decision.follow_ups])
            if any(new is not old for new, old in zip(follow_ups, decision.follow_ups, strict=True)):
                changes["follow_ups"] = follow_ups
        return msgspec.structs.replace(decision, **changes) if changes else decision

    def _is_small(self, decision: Decision) -> bool:
        """Whether there is plainly nothing to do, as for most decisions."""
        reach, limit = self._any_reach, self._limit
        result, origin = decision.result, decision.origin
        if len(decision.payload) > limit:
            return False
        if origin is not None and origin.answer is not None and len(origin.answer) >= reach:
            return False
        if result is not None:
            if result.answer is not None and len(result.answer) >= reach:
                return False
            for candidate in result.candidates:  # a loop: a generator costs more than all of this
                if len(candidate.text) >= reach:
                    return False
        for follow_up in decision.follow_ups:  # noqa: SIM110 - as above
            if len(follow_up.payload) > limit:
                return False
        return True

    def _result_out(self, result: RoundResult) -> RoundResult:
        answer = None if result.answer is None else self.text_out(result.answer)
        candidates = tuple([self._candidate_out(c) for c in result.candidates])
        if answer is result.answer and all(n is o for n, o in zip(candidates, result.candidates, strict=True)):
            return result
        return msgspec.structs.replace(result, answer=answer, candidates=candidates)

    def _candidate_out(self, answer: Answer) -> Answer:
        text = self.text_out(answer.text)
        return answer if text is answer.text else msgspec.structs.replace(answer, text=text)

    def _origin_out(self, origin: Origin) -> Origin:
        if origin.answer is None:
            return origin
        answer = self.text_out(origin.answer)
        return origin if answer is origin.answer else msgspec.structs.replace(origin, answer=answer)

    def _follow_up_out(self, follow_up: FollowUp, *, carries_answer: bool) -> FollowUp:
        changes: dict[str, Any] = {}
        payload = self.payload_out(follow_up.payload)
        if payload is not follow_up.payload:
            changes["payload"] = payload
        if carries_answer:
            head = read_head(follow_up.task)
            if head.origin is not None:
                origin = self._origin_out(head.origin)
                if origin is not head.origin:
                    changes["task"] = Raw(encode(msgspec.structs.replace(head, origin=origin)))
        return msgspec.structs.replace(follow_up, **changes) if changes else follow_up
