"""By what one of two records of the same id is preferred, when lakes are merged."""

from collections.abc import Sequence

from schemas.errors import RefusedError

CRITERIA: dict[str, str] = {
    # let pass without a word, before flagged; converged, before forced
    "supervision": "CASE WHEN r.forced THEN 0 ELSE 2 END + CASE WHEN len(d.flags) > 0 THEN 0 ELSE 1 END",
    # an answer that its verifier refused is worse than one that nothing speaks for
    "evidence": "CASE WHEN r.evidence = 'verifier' AND r.confidence < 0.5 THEN -1 WHEN r.evidence = 'verifier' THEN 3 "
    "WHEN r.evidence = 'cross-model' THEN 2 WHEN r.evidence = 'self' THEN 1 ELSE 0 END",
    "weight": "coalesce(d.effective_votes, len(r.models))",
    "score": "r.score",
    "freshness": "r.converged_at",
}
"""In SQL, the higher, the better: over a record `r` and the row `d` of its decision in `rounds`. Weight is how many
independent models its answer's votes are worth."""

ROUND_COLUMNS = ("flags", "effective_votes")
"""What they need of `rounds`."""


def read_criteria(text: str) -> tuple[str, ...]:
    """Read an order of criteria, separated by commas.

    Raises:
        RefusedError: it names none, one twice, or one that there is not.
    """
    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in CRITERIA]:
        raise RefusedError(f"{unknown[0]!r} is no criterion; there are: {', '.join(CRITERIA)}")
    if len(set(names)) < len(names):
        raise RefusedError(f"{text!r} names a criterion twice")
    return names


def preference(criteria: Sequence[str]) -> str:
    """The order of records, the best first, in SQL; those that are equal in all criteria have one all the same."""
    return ", ".join([f"{CRITERIA[name]} DESC" for name in criteria] + ["r.content_hash", "r.cluster", "r.lane"]) + (
        ", r.decision_offset"
    )
