"""By what a round is decided: the policy, supervision, verifiers, comparisons and routing that the settings name.

A cell and a replay that asks again have their deciding steps from here, each with what it has learned.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from connectors.embeddings import Alike
from connectors.sandbox import Limits as SandboxLimits
from connectors.sandbox import Sandbox, SandboxVerdict
from flows.affinity import Affinities
from flows.branching import Branching
from flows.budget import Budgets
from flows.comparing.equivalence import Comparison
from flows.comparing.symbolic import Prover
from flows.escalation import Escalation
from flows.learning import Memories
from flows.outlook import Outlooks
from flows.overflow import Overflow
from flows.policies import ConvergencePolicy, SimpleThresholdPolicy, make_policy, value_of
from flows.settings import Settings, import_object
from flows.steps.plan import Limits, Planner
from flows.steps.route import PRESUMED_BEST, Strategy, read_strategy
from flows.steps.supervise import Supervision
from flows.steps.validate import Verifier, built_in_verifiers
from flows.supervision import Supervisor, built_in_supervisor, read_supervision
from flows.votes import RELIABILITY
from schemas.errors import RefusedError
from schemas.node import NodeCapabilities
from schemas.task import TESTS, PayloadView


class Rules:
    """The rules of one process; nothing is made before it is used, and no broker or node is needed.

    Args:
        settings: what they are.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def policy(self) -> ConvergencePolicy:
        """Says when a task has converged.

        Raises:
            RefusedError: the settings name none.
        """
        return make_policy(self.settings)

    @cached_property
    def strategy(self) -> Strategy:
        """How the models of a round are chosen.

        Raises:
            RefusedError: the setting is none.
        """
        settings = self.settings
        agree = max(settings.cascade_agree, settings.score_threshold)
        return read_strategy(settings.routing, settings.cascade_first, agree)

    @cached_property
    def supervisor(self) -> Supervisor:
        """The policies that say what may pass.

        Raises:
            RefusedError: something in their file is wrong.
        """
        path = self.settings.supervision
        return read_supervision(Path(path)) if path else built_in_supervisor()

    @cached_property
    def verifiers(self) -> Mapping[str, Verifier]:
        """The registered checks by name.

        Raises:
            RefusedError: the settings name something else.
        """
        found = built_in_verifiers() | {TESTS: self._run_tests}
        for path in filter(None, (p.strip() for p in self.settings.verifiers.split(","))):
            verifier = import_object(path, "AUREON_VERIFIERS")
            if not callable(verifier):
                raise RefusedError(f"AUREON_VERIFIERS: {path} is {type(verifier).__name__}, and no function")
            found[path.rpartition(":")[2].rpartition(".")[2]] = verifier
        return found

    @cached_property
    def sandbox(self) -> Sandbox:
        """Runs programs that models wrote."""
        return Sandbox(SandboxLimits(self.settings.sandbox_s, self.settings.sandbox_bytes))

    def _run_tests(self, view: PayloadView, answer: str) -> SandboxVerdict:
        """The verifier `tests`: the payload's tests pass when they are run after the answer."""
        return self.sandbox.run(answer, view.tests or "")

    @cached_property
    def comparison(self) -> Comparison:
        """How answers are compared, beyond what each question says of it."""
        least, limit_s = self.settings.text_similarity, self.settings.symbolic_s
        return Comparison(alike=Alike(least) if least else None, proof=Prover(limit_s) if limit_s else None)

    def memories(self) -> Memories:
        """What is learned, before anything is."""
        dearest = PRESUMED_BEST if self.strategy.kind == "cascade" else RELIABILITY
        return Memories(affinities=Affinities(dearest), outlooks=Outlooks())

    def escalation(self, memories: Memories, nodes: Callable[[], tuple[int, Sequence[NodeCapabilities]]]) -> Escalation:
        """Judges whether a cascade may stop; without proofs, which calls must not wait for."""
        value = value_of(self.policy)
        quick = Comparison(alike=self.comparison.alike)
        pays = value.pays if value is not None else None
        return Escalation(self.verifiers, memories.affinities, nodes, self.strategy.agree, quick, pays)

    def supervision(self, memories: Memories) -> Supervision:
        """Lays results before the policies, with what was learned of their topics."""
        return Supervision(self.supervisor, self.settings.max_rounds, memories.supervision, memories.accepted)

    def planner(
        self, limits: Limits, budgets: Budgets, overflow: Overflow, memories: Memories, branching: Branching
    ) -> Planner:
        """Knows the policy and the limits."""
        overflow.keep(self.supervisor.encoded)  # before any decision names it
        # which does not look at it, in each of thousands a second
        plain = isinstance(self.policy, SimpleThresholdPolicy)
        return Planner(
            self.policy,
            limits,
            budgets,
            overflow,
            None if plain else memories.outlooks.outlook,
            self.supervisor.may_quote,
            branching,
            self.supervisor.version,
        )

    def close(self) -> None:
        """End what runs in processes of its own."""
        with contextlib.ExitStack() as parts:
            for name in ("sandbox", "comparison"):
                made = self.__dict__.get(name)
                part = made.proof if isinstance(made, Comparison) else made
                if isinstance(part, Sandbox | Prover):
                    parts.callback(part.close)
