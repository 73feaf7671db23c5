"""Supervision: may this result pass. An ordered list of policies, each a small object; pure.

    case ─► policy ─► policy ─► … ─► the result with its findings: noted, capped, asked again, or rejected

A policy of one's own has a `name` and `examine(case)`, which gives a `Finding` or None (`flows/supervision/case.py`).
"""

from flows.supervision.case import Case, Health, Policy
from flows.supervision.file import built_in_supervisor, read_supervision
from flows.supervision.supervisor import Supervisor, is_rejected, stops_topic, wants_more

__all__ = [
    "Case",
    "Health",
    "Policy",
    "Supervisor",
    "built_in_supervisor",
    "is_rejected",
    "read_supervision",
    "stops_topic",
    "wants_more",
]
