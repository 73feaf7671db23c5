"""By what a round is decided: the policy, supervision, verifiers and comparisons that the settings name."""

import contextlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from connectors.embeddings import Alike
from connectors.sandbox import Limits, Sandbox, SandboxVerdict
from flows.policies import ConvergencePolicy, make_policy
from flows.settings import Settings, import_object
from flows.steps.equivalence import Comparison
from flows.steps.symbolic import Prover
from flows.steps.validate import Verifier, built_in_verifiers
from flows.supervision import Supervisor, built_in_supervisor, read_supervision
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
