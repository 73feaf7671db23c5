"""Escalation: has a round answers enough, or is one more of its reserves to be asked.

A cascade stops where a verifier accepted, or several models agree surely enough; under the policy of value, where no
further answer is worth its price.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from flows.affinity import Affinities
from flows.budget import expected
from flows.checks import Checks
from flows.comparing.equivalence import EXACT, Comparison
from flows.items import Routed, Work
from flows.outlook import gain_of_answers
from flows.steps.validate import Verifier, ask_verifier, validate
from flows.votes import ALTERNATIVES, Votes
from schemas.node import Answer, Call, NodeCapabilities
from schemas.task import FORM_CHECKS, PayloadView


class Escalation:
    """Judges the answers that a round has so far; used by several threads.

    Args:
        verifiers: the registered checks by name.
        affinities: what is known of the models.
        nodes: gives what there is to ask, behind a number that changes when it does.
        agree: from which confidence on a cascade stops.
        by: how answers are compared.
        pays: whether an expected gain in right answers is worth its price; with it, a cascade stops where no further
            answer is.
    """

    def __init__(
        self,
        verifiers: Mapping[str, Verifier],
        affinities: Affinities,
        nodes: Callable[[], tuple[int, Sequence[NodeCapabilities]]],
        agree: float = 1.0,
        by: Comparison = EXACT,
        pays: Callable[[float, float], bool] | None = None,
    ) -> None:
        self._verifiers = verifiers
        self._affinities = affinities
        self._nodes = nodes
        self._agree = agree
        self._by = by
        self._pays = pays

    def check(self, routed: Routed, answers: Sequence[Answer], before: Checks | None) -> Checks:
        """Ask the verifier of a round, which may take its time.

        Args:
            routed: the round.
            answers: those there are.
            before: what it said already.
        """
        work: Work = routed.message.body
        known = self._affinities.votes(work.task.topic, routed.handed_at)
        return ask_verifier(work.view, answers, self._verifiers, known, self._by, before)

    def enough(self, routed: Routed, answers: Sequence[Answer], checks: Checks | None = None) -> bool:
        """Tell whether a cascade may stop: a verifier accepted, or several agree that are right with this confidence.

        One that looks at the form alone may only refuse.

        Args:
            routed: the round.
            answers: those there are, failures and abstentions included.
            checks: what the verifier said, where it was asked ahead.
        """
        work: Work = routed.message.body
        view = work.view
        known = self._affinities.votes(work.task.topic, routed.handed_at)
        asked = len(answers) - len(routed.calls)
        if self._pays is not None and view.verifier is None and 0 <= asked < len(routed.reserves):
            return not self._is_worth(routed.reserves[asked : asked + 2], view, answers, known, routed.handed_at)
        result = validate(view, answers, self._verifiers, known, self._by, checks)
        if result.verified is not None and (not result.verified or result.verifier not in FORM_CHECKS):
            return result.verified
        if result.verified:
            result = validate(msgspec.structs.replace(view, verifier=None), answers, self._verifiers, known, self._by)
        return result.evidence == "cross-model" and result.confidence >= self._agree

    def _is_worth(
        self, later: Sequence[Call], view: PayloadView, answers: Sequence[Answer], known: Votes | None, now: float
    ) -> bool:
        """Tell whether one more answer, or two, are expected to bring more than they cost."""
        assert self._pays is not None  # noqa: S101 - the caller has looked
        result = validate(view, answers, {}, known, self._by)
        given = [result.confidence, *[d.confidence for d in result.dissent]] if result.answer is not None else []
        chances = self._affinities.chances(later[0].topic, [(call.node, call.model) for call in later], now)
        reliabilities = [right / (right + wrong) for right, wrong in chances]
        alternatives = known.parameters.alternatives if known is not None else ALTERNATIVES
        nodes = {n.node: n for n in self._nodes()[1]}
        price = 0.0
        for count, call in enumerate(later, 1):
            price += (expected(nodes[call.node], call)[1] if call.node in nodes else 0.0) or 1.0
            if self._pays(gain_of_answers(given, reliabilities[:count], alternatives), price):
                return True
        return False
