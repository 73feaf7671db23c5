"""The list of policies at work: what they find of a result, in their order, and what it does to the result.

    accept           what comes after in the list is not asked
    flag             noted
    more_reasoning   noted; another round, unless the rounds are spent
    cap              noted; the score is at most so much
    reject           the score is 0; another round, or a dead letter; it never reaches ONE
    stop_topic       the same, at once a dead letter; and the topic's further tasks are not asked for a while

What one policy found, no other takes back: an `accept` after a `reject` ends the examination and nothing else.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import get_args

import msgspec
from msgspec import Struct

from flows.supervision.case import Case, Policy, Rule, TextRule, clipped
from schemas.decision import Finding, FindingAction, RoundResult

REASON_CHARACTERS = 300
MAX_TOPICS = 10_000
"""Topics are the users' to invent; do not remember them without bound."""

_REJECTING = ("reject", "stop_topic")


class Entry(Struct, frozen=True, gc=False):
    """A policy in the list."""

    policy: Policy
    topics: tuple[str, ...] = ()
    """Only there; none means everywhere."""


class _Asked(Struct, frozen=True, gc=False):
    """A policy as it is asked."""

    examine: Callable[[Case], Finding | None]
    least: int
    reads_words: bool
    policy: Policy


class Supervisor:
    """An ordered list of policies; threads may share it.

    Args:
        entries: the policies, those asked first before the others.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self._by_topic: dict[str, tuple[_Asked, ...]] = {}
        self._everywhere = None if any(e.topics for e in entries) else self._those_of("")

    @cached_property
    def encoded(self) -> bytes:
        """The list: each policy with its parameters, and the topics it is for, in canonical JSON."""
        listed = [{"policy": _name(e.policy), "topics": e.topics} for e in self.entries]
        return msgspec.json.encode(listed, order="sorted")

    @cached_property
    def version(self) -> str:
        """The list's version: `sha256-` and the sha256 of `encoded`, in hex."""
        return f"sha256-{hashlib.sha256(self.encoded).hexdigest()}"

    def _those_of(self, topic: str) -> tuple[_Asked, ...]:
        found = []
        for entry in self.entries:
            if not entry.topics or topic in entry.topics:
                policy, rule = entry.policy, entry.policy
                least, reads_words = (rule.least, rule.READS_WORDS) if isinstance(rule, Rule) else (0, False)
                found.append(_Asked(policy.examine, least, reads_words, policy))
        return tuple(found)

    def _of_topic(self, topic: str) -> tuple[_Asked, ...]:
        found = self._by_topic.get(topic)
        if found is None:
            found = self._those_of(topic)
            if len(self._by_topic) < MAX_TOPICS:
                self._by_topic[topic] = found
        return found

    def examine(self, case: Case) -> RoundResult:
        """Ask each policy about a result; what is no answer is not examined.

        Returns:
            The result with what was found. Its scores are numbers that JSON has, whatever they were.
        """
        result = case.result
        answer = result.answer
        findings: list[Finding] = []
        warnings: list[str] = []
        if answer is not None:
            length, has_words = len(answer), None
            for asked in self._everywhere or self._of_topic(case.topic):
                if length < asked.least:
                    continue
                if asked.reads_words:
                    if has_words is None:
                        has_words = _has_words(answer)
                    if not has_words:
                        continue
                finding = _ask(asked, case, warnings)
                if finding is not None:
                    findings.append(finding)
                    if finding.action == "accept":
                        break
                    case = msgspec.structs.replace(
                        case, result=msgspec.structs.replace(case.result, findings=(*result.findings, *findings))
                    )
        if not (findings or warnings) and _is_sane(result):
            return result
        return _found(result, findings, warnings)

    def may_quote(self, topic: str, text: str) -> bool:
        """Tell whether a text may be put before other models: no policy that reads texts finds anything in it."""
        length, has_words = len(text), _has_words(text)
        for asked in self._everywhere or self._of_topic(topic):
            policy = asked.policy
            if length >= asked.least and (has_words or not asked.reads_words) and isinstance(policy, TextRule):
                try:
                    seen = policy.sees(text)
                except Exception:  # noqa: BLE001 - a user's classifier; `examine` tells of it
                    return False
                if seen is not None:
                    return False
        return True


def _has_words(text: str) -> bool:
    """Tell whether there are letters: one has two cases, in most scripts, and a long text has some anyway."""
    return len(text) > 100 or text.lower() != text.upper() or not text.isascii()


def _ask(asked: _Asked, case: Case, warnings: list[str]) -> Finding | None:
    """Ask one policy; one that fails has no say."""
    try:
        finding = asked.examine(case)
    except Exception as error:  # noqa: BLE001 - it may be a user's; the cell goes on
        warnings.append(f"supervision: {_name(asked.policy)}: {type(error).__name__}: {error}"[:300])
        return None
    if finding is None:
        return None
    problem = _wrong(finding)
    if problem:
        warnings.append(f"supervision: {_name(asked.policy)}: {problem}; left out"[:300])
        return None
    return msgspec.structs.replace(finding, reason=clipped(finding.reason, REASON_CHARACTERS))


def _name(policy: Policy) -> str:
    try:
        return str(policy.name)
    except Exception:  # noqa: BLE001 - a user's property
        return type(policy).__name__


_ACTIONS = get_args(FindingAction)


def _wrong(finding: object) -> str:
    """Say what makes a finding none; "" is nothing. What is written down has to be read back."""
    if not isinstance(finding, Finding):
        return f"gave {type(finding).__name__}, not a Finding or None"
    action: str = finding.action
    if action not in _ACTIONS:
        return f"the action {finding.action!r} is none of {', '.join(_ACTIONS)}"
    texts: tuple[object, ...] = (finding.policy, finding.reason, finding.evidence)
    if not all(isinstance(text, str) for text in texts):
        return "policy, reason and evidence are texts"
    if finding.action == "cap" and not (isinstance(finding.cap, float | int) and 0.0 <= finding.cap <= 1.0):
        return f"the cap {finding.cap!r} is not between 0 and 1"
    pause_s: object = finding.pause_s
    if not (isinstance(pause_s, float | int) and 0.0 <= pause_s < math.inf):
        return f"pause_s {pause_s!r} is no time"
    return ""


def _found(result: RoundResult, findings: list[Finding], warnings: list[str]) -> RoundResult:
    """Write down what was found, and give the score that is left."""
    if not _is_sane(result):
        result, warning = _sane(result)
        warnings.append(warning)
    score = result.score
    for finding in findings:
        if finding.action == "cap" and finding.cap is not None:
            score = min(score, finding.cap)
        elif finding.action in _REJECTING:
            score = 0.0
    noted = [f.reason for f in findings if f.action != "accept"]
    return msgspec.structs.replace(
        result,
        score=score,
        findings=(*result.findings, *findings),
        flags=(*result.flags, *noted),
        warnings=(*result.warnings, *warnings),
    )


def _is_sane(result: RoundResult) -> bool:
    """Tell whether all its numbers can be written down and mean something."""
    z_score = result.z_score
    if not (
        0.0 <= result.score <= 1.0
        and 0.0 <= result.confidence <= 1.0
        and 0.0 <= result.agreement <= 1.0
        and 0.0 <= result.effective_votes < math.inf
        and (z_score is None or -math.inf < z_score < math.inf)
    ):
        return False
    for dissent in result.dissent:  # noqa: SIM110 - a loop: a generator costs more than all of this
        if not 0.0 <= dissent.confidence <= 1.0:
            return False
    return True


def _sane(result: RoundResult) -> tuple[RoundResult, str]:
    """Take out what is no number."""

    def share(value: float) -> float:
        return value if 0.0 <= value <= 1.0 else 0.0

    votes, z_score = result.effective_votes, result.z_score
    sane = msgspec.structs.replace(
        result,
        score=share(result.score),
        confidence=share(result.confidence),
        agreement=share(result.agreement),
        effective_votes=votes if 0.0 <= votes < math.inf else 0.0,
        z_score=z_score if z_score is None or math.isfinite(z_score) else None,
        dissent=tuple([d for d in result.dissent if 0.0 <= d.confidence <= 1.0]),
    )
    told = f"score {result.score!r}, confidence {result.confidence!r}, agreement {result.agreement!r}"
    return sane, f"of the result's own figures some are none, and were left out: {told}"


def is_rejected(result: RoundResult) -> bool:
    """Tell whether a result may not reach ONE."""
    for finding in result.findings:  # noqa: SIM110 - a loop: a generator costs more than all of this
        if finding.action in _REJECTING:
            return True
    return False


def stops_topic(result: RoundResult) -> bool:
    """Tell whether a result stops its topic."""
    return any(f.action == "stop_topic" for f in result.findings)


def wants_more(result: RoundResult) -> str:
    """Say why another round is asked for; "" where it is not."""
    for finding in result.findings:
        if finding.action == "more_reasoning":
            return finding.reason
    return ""
