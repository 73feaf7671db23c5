"""What becomes of rounds that are open when a cell stops."""

from flows.steps.infer import Inference
from flows.stopping import Stopping
from tests.flows.call_parts import ScriptedNode, answers, routed, runner_of


def test_nothing_is_decided_once_the_time_of_a_stop_is_over() -> None:
    """The lanes read their logs to the end by then; what is dropped is handed out again in the next life."""
    stopping = Stopping(0.0)
    with runner_of(ScriptedNode(answers), tries=1) as runner:
        inference = Inference(runner, stopping)
        (passed,), _ = inference.on_batch([[routed()]])
        assert [answered.answers for answered in passed] == [()]
        stopping.ask()
        assert list(inference.on_batch([[routed()]])[0]) == []
