"""Traces: the spans that a winning decision tells of. Pure.

    task ─┬─► round 0 ─┬─► call
          │            └─► call
          ├─► round 1 ───► call
          └─► task (a branch) ───► round 0 ───► call

The ids are hashes of names, so no context travels with a message: whoever reads a decision knows its trace and its
parent, and a replay tells the same spans again. A decision that lost is in no trace; another generation is another one.
"""

import hashlib

from schemas.decision import Decision, DecisionKind
from schemas.span import Span
from schemas.task import Ancestor, Origin

_ENDED = frozenset({DecisionKind.CONVERGED, DecisionKind.DEAD, DecisionKind.CANCELLED})
_NO_ORIGIN = Origin()


def spans_of(cluster: str, decision: Decision) -> list[Span]:
    """The round of a decision with its calls, and the task where it ends here.

    A call is told to begin with its round, since nothing says when it had its turn; how long it took is its own.
    """
    if decision.kind in (DecisionKind.MOVED, DecisionKind.STARTED) or not decision.topic:
        return []
    if decision.reason == "id_conflict":  # the id is another message's, and so are the spans
        return []
    generation = decision.generation
    itself = Ancestor(decision.topic, decision.logical_id)
    origin = decision.origin or _NO_ORIGIN
    root = (*origin.ancestors, itself)[0]
    trace_id = _id(16, cluster, *_name(root), generation)
    task_id = _id(8, cluster, *_name(itself), generation)
    began = decision.decided_at - decision.latency_s
    spans = []
    if decision.kind in _ENDED:
        parent = origin.ancestors[-1] if origin.ancestors else None
        spans.append(
            Span(
                trace_id=trace_id,
                span_id=task_id,
                parent_id=_id(8, cluster, *_name(parent), generation) if parent is not None else None,
                name=f"task {decision.topic}",
                began=origin.started_at or began,
                ended=decision.decided_at,
                attributes=_about(decision) | {"aureon.rounds": decision.round_index + 1},
                failed="" if decision.kind is DecisionKind.CONVERGED else decision.kind.value,
            )
        )
    place = (cluster, *_name(itself), generation, decision.round_index, decision.attempt)
    round_id = _id(8, *place)
    spans.append(
        Span(
            trace_id=trace_id,
            span_id=round_id,
            parent_id=task_id,
            name=f"round {decision.round_index}",
            began=began,
            ended=decision.decided_at,
            attributes=_about(decision) | _of_round(decision),
            failed=decision.kind.value if decision.kind in (DecisionKind.DEAD, DecisionKind.RETRY) else "",
        )
    )
    for number, answer in enumerate(decision.result.candidates if decision.result is not None else ()):
        spans.append(
            Span(
                trace_id=trace_id,
                span_id=_id(8, *place, number),
                parent_id=round_id,
                name=f"call {answer.model}",
                began=began,
                ended=min(began + answer.latency_s, decision.decided_at),
                attributes={
                    "aureon.node": answer.node,
                    "gen_ai.request.model": answer.model,
                    "aureon.status": answer.status,
                    "aureon.tries": answer.tries,
                    "gen_ai.usage.input_tokens": answer.tokens_in,
                    "gen_ai.usage.output_tokens": answer.tokens_out,
                    "aureon.cost": answer.cost,
                },
                failed=answer.status if answer.status == "failed" else "",
                outside=True,
            )
        )
    return spans


def _about(decision: Decision) -> dict[str, str | int | float | bool]:
    return {
        "aureon.task_id": decision.task_id,
        "aureon.topic": decision.topic,
        "aureon.logical_id": decision.logical_id,
        "aureon.generation": decision.generation,
        "aureon.decision": decision.kind.value,
        "aureon.forced": decision.forced,
    }


def _of_round(decision: Decision) -> dict[str, str | int | float | bool]:
    told: dict[str, str | int | float | bool] = {
        "aureon.attempt": decision.attempt,
        "aureon.calls": decision.calls,
        "aureon.tokens": decision.tokens,
        "aureon.cost": decision.cost,
        "aureon.policy": decision.policy,
    }
    if decision.result is not None:
        told |= {"aureon.score": decision.result.score, "aureon.confidence": decision.result.confidence}
    return told


def _name(task: Ancestor) -> tuple[str, str]:
    return task.topic, task.logical_id


def _id(size: int, *named: str | int) -> int:
    """Shorten a name to so many bytes; its parts are told with their lengths, so no two names are one."""
    parts = [str(part).encode(errors="surrogatepass") for part in named]
    text = b"".join(b"%d:%s" % (len(part), part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text, digest_size=size).digest())
