"""By what a round is decided: the policy, supervision, verifiers, comparisons and routing that the settings name."""

import contextlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from connectors.embeddings import Alike
from connectors.sandbox import Limits, Sandbox, SandboxVerdict
from flows.policies import ConvergencePolicy, SimpleThresholdPolicy, make_policy, value_of
from flows.settings import Settings, import_object
from flows.steps.equivalence import Comparison
from flows.steps.route import PRESUMED_BEST, Strategy, read_strategy
from flows.steps.symbolic import Prover
from flows.steps.validate import Verifier, built_in_verifiers
from flows.supervision import Supervisor, built_in_supervisor, read_supervision
from flows.votes import RELIABILITY
from schemas.errors import RefusedError
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

    @property
    def pays(self) -> Callable[[float, float], bool] | None:
        """Whether another call is worth its price, where the policy weighs that."""
        value = value_of(self.policy)
        return value.pays if value is not None else None

    @property
    def looks_ahead(self) -> bool:
        """Whether the policy asks what another round may bring; the plain one does not, thousands of times a second."""
        return not isinstance(self.policy, SimpleThresholdPolicy)

    @cached_property
    def strategy(self) -> Strategy:
        """How the models of a round are chosen.

        Raises:
            RefusedError: the setting is none.
        """
        settings = self.settings
        agree = max(settings.cascade_agree, settings.score_threshold)
        return read_strategy(settings.routing, settings.cascade_first, agree)

    @property
    def presumed_best(self) -> float:
        """How often the dearest node is expected to be right, where its file says nothing."""
        return PRESUMED_BEST if self.strategy.kind == "cascade" else RELIABILITY

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
        return Sandbox(Limits(self.settings.sandbox_s, self.settings.sandbox_bytes))

    def _run_tests(self, view: PayloadView, answer: str) -> SandboxVerdict:
        """The verifier `tests`: the payload's tests pass when they are run after the answer."""
        return self.sandbox.run(answer, view.tests or "")

    @cached_property
    def comparison(self) -> Comparison:
        """How answers are compared, beyond what each question says of it."""
        least, limit_s = self.settings.text_similarity, self.settings.symbolic_s
        return Comparison(alike=Alike(least) if least else None, proof=Prover(limit_s) if limit_s else None)

    def close(self) -> None:
        """End what runs in processes of its own."""
        with contextlib.ExitStack() as parts:
            for name in ("sandbox", "comparison"):
                made = self.__dict__.get(name)
                part = made.proof if isinstance(made, Comparison) else made
                if isinstance(part, Sandbox | Prover):
                    parts.callback(part.close)
