"""`nodes.toml`: what is read of it, and what is said of a bad one."""

import asyncio
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.nodes import Node, nodes_file
from connectors.nodes.embedded import TOPICS
from connectors.nodes.nodes_file import (
    KINDS,
    Kind,
    NodeEntry,
    NodeMaker,
    NodesFile,
    PromptTexts,
    parse_nodes,
    read_nodes_file,
)
from connectors.nodes.openai import OpenAINode
from flows.settings import import_object
from schemas.errors import RefusedError
from schemas.node import Answer, Call, NodeCapabilities
from tests.connectors.asked import a_call
from tests.connectors.nodes.test_openai import SECRET

BASE = """
[[node]]
id = "local"
kind = "openai"
url = "http://127.0.0.1:8000/v1"
models = ["small"]
"""
FULL = """
[[node]]
id = "local"
kind = "openai"
url = "https://models.example/v1/"
key_env = "LOCAL_KEY"
models = ["small", "large"]
topics = ["math"]
max_concurrency = 16
adaptive = false
timeout_s = 30
price_in = 0.15
price_out = 0.6
max_tokens = 2048
load_cost = 0.01
weight = 2
affinity = {math = 0.9, "*" = 0.5}
temperature = [0, 0.7]
seed = 7

[[node]]
id = "exact"
kind = "solver"
models = ["symbolic"]

[prompts.default]
system = "Be brief."

[prompts.math]
first = "$question"
"""
SOLVER = """
[[node]]
id = "exact"
kind = "solver"
models = ["symbolic"]
"""


def entries(text: str) -> tuple[NodeEntry, ...]:
    """Of a good file."""
    return parse_nodes(text.encode()).node


def refusal(text: str) -> str:
    """What is said of a bad one."""
    with pytest.raises(RefusedError) as refused:
        parse_nodes(text.encode())
    return str(refused.value)


def test_every_field_is_read() -> None:
    """Numbers with and without a point."""
    found = parse_nodes(FULL.encode())
    local, exact = found.node
    assert local.capabilities() == NodeCapabilities(
        node="local",
        models=("small", "large"),
        topics=("math",),
        max_concurrency=16,
        adaptive=False,
        timeout_s=30.0,
        price_in=0.15,
        price_out=0.6,
        max_tokens=2048,
        load_cost=0.01,
        weight=2.0,
        affinity={"math": 0.9, "*": 0.5},
    )
    assert (local.temperatures, local.seed, local.key_env) == ((0.0, 0.7), 7, "LOCAL_KEY")
    assert exact.temperatures == ()
    assert found.prompts == {"default": PromptTexts(system="Be brief."), "math": PromptTexts(first="$question")}
    assert entries(BASE + "temperature = 0.3")[0].temperatures == (0.3,)


def test_what_is_left_out_is_as_nodes_have_it() -> None:
    """One default, in two places."""
    assert entries(BASE)[0].capabilities() == NodeCapabilities(node="local", models=("small",))


@pytest.mark.parametrize(
    "text, said",
    [
        (BASE + "max_concurrency = 0", "node 'local': max_concurrency: Expected int >= 1"),
        (BASE + "max_concurrency = 'many'", "node 'local': max_concurrency: Expected int, got str"),
        (BASE + "price_in = -1", "node 'local': price_in: Expected float >= 0.0"),
        (BASE + "price_in = nan", "node 'local': price_in: Expected float >= 0.0"),
        (BASE + "timeout_s = inf", "node 'local': timeout_s: Expected a finite number"),
        (BASE + "temperature = [0.1, nan]", "node 'local': temperature[1]: Expected float >= 0.0"),
        (BASE + "temperature = []", "node 'local': temperature: Expected array of length >= 1"),
        (BASE + "temperature = [0, -1]", "node 'local': temperature[1]: Expected float >= 0.0"),
        (BASE + "affinity = {logic = 0.5, math = 2}", "node 'local': affinity.math: Expected float <= 1.0"),
        (BASE + "affinity = {math = nan}", "node 'local': affinity."),
        (BASE + "topics = [1]", "node 'local': topics[0]: Expected str, got int"),
        (BASE + "colour = 1", "node 'local': unknown field colour; there are: id, kind, url, key_env, models"),
        (SOLVER + "options = {a = 1}", "node 'exact': options: they are for kind openai, and for a kind of your own"),
        (BASE + "options = {model = 'x'}", "node 'local': options.model: each request has its own"),
        (BASE + "options = {max_completion_tokens = 0}", "node 'local': options.max_completion_tokens: Expected"),
        (BASE + BASE, "node 'local': id: another node has it too; each needs its own"),
        (BASE.replace('"small"', ""), "node 'local': models: name those that are to be asked"),
        (BASE.replace('"small"', '"a", "a"'), "node 'local': models: one of them is named twice"),
        (BASE.replace("url", "# url"), "node 'local': url: a node of kind openai needs one, as in url = "),
        (BASE.replace("http:", "ftp:"), "node 'local': url: Expected http:// or https:// and a host"),
        (BASE.replace("http://", ""), "node 'local': url: Expected http:// or https:// and a host"),
        (BASE.replace("8000", "80000"), "node 'local': url: no URL"),
        (BASE.replace("/v1", "/v1?version=1"), "node 'local': url: ends in ?... or #..."),
        (
            BASE.replace("openai", "opneai"),
            f"node 'local': kind: 'opneai' is none of {', '.join(KINDS)}, and no module",
        ),
        (BASE.replace("openai", "solver"), "node 'local': url: a node of kind solver runs on this machine"),
        (FULL.replace("symbolic", "psychic"), "node 'exact': models: 'psychic' is no solver; there are: symbolic, "),
        ('[[node]]\nkind = "llm"', "node 1: needs id"),
        (BASE + '[[node]]\nid = "b"', "node 'b': needs kind"),
        (BASE.replace("local", "my node"), "node 1: id: Expected letters, digits and any of"),
        (BASE + "[prompts.math]\nfrist = ''", "prompts.math: unknown field frist; there are: system, first, again"),
        (BASE + "[prompts.math]\nfirst = 1", "prompts.math.first: Expected str | null, got int"),
        ("colour = 1", "unknown field colour; there are: node, prompts"),
        ("", "names no node; each is a table [[node]]"),
        ("node = []", "names no node; each is a table [[node]]"),
        ("[[node]", "not TOML: "),
    ],
)
def test_what_is_wrong_is_named_by_node_and_field(text: str, said: str) -> None:
    """With what was expected, or the cure."""
    assert refusal(text).startswith(said)


def test_a_key_that_was_put_into_the_file_is_not_shown() -> None:
    """Neither as a field, nor in place of the name of its variable, nor within the URL."""
    for text in (
        BASE + f"key = '{SECRET}'",
        BASE + f"key_env = '{SECRET}'",
        BASE.replace("127.0.0.1", f"me:{SECRET.replace('/', '-')}@127.0.0.1"),
        BASE.replace("/v1", f"/v1?key={SECRET}"),
    ):
        assert SECRET[3:9] not in refusal(text)
    assert refusal(BASE + f"key_env = '{SECRET}'") == (
        "node 'local': key_env: Expected the name of an environment variable, in capitals"
    )


@given(st.binary() | st.text().map(str.encode))
def test_any_other_file_is_refused(text: bytes) -> None:
    """And nothing else happens."""
    with pytest.raises(RefusedError):
        parse_nodes(text)


def test_errors_name_the_file(tmp_path: Path) -> None:
    """One that is there, and one that is not."""
    path = tmp_path / "nodes.toml"
    with pytest.raises(RefusedError, match=r"nodes\.toml: No such file"):
        read_nodes_file(path)
    path.write_text(BASE + "seed = 1.5")
    with pytest.raises(RefusedError, match=r"^nodes\.toml: node 'local': seed: Expected int \| null, got float"):
        read_nodes_file(path)


def test_the_struct_knows_no_default_that_the_capabilities_have_not() -> None:
    """So that a new field of one is missed in the other by nobody."""
    ours = {f.name: f.default for f in msgspec.structs.fields(NodeEntry)}
    for field in msgspec.structs.fields(NodeCapabilities):
        if field.name != "node":
            assert field.name in ours
            assert field.required or field.name == "affinity" or ours[field.name] == field.default
    assert NodesFile.__struct_fields__ == ("node", "prompts")


# -- making --------------------------------------------------------------------------------------------------------


def make(text: str, **environment: str) -> list[Node]:
    """The nodes of a file."""
    maker = NodeMaker(import_object, environment)
    return [maker.make(entry) for entry in entries(text)]


def test_endpoints_and_solvers_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection, without a process, and without a word of the key."""
    monkeypatch.setattr(asyncio, "get_running_loop", None)
    local, exact = make(FULL, LOCAL_KEY=SECRET + "\n")
    assert isinstance(local, OpenAINode)
    assert SECRET not in repr(vars(local))
    assert exact.capabilities.topics == TOPICS


@pytest.mark.parametrize("value", [None, "", " \n", "two words", "kéy", "a\x00b"])
def test_a_key_that_is_not_set_or_is_none_is_refused(value: str | None) -> None:
    """The variable is named, its value is not."""
    with pytest.raises(RefusedError) as refused:
        make(FULL, **({} if value is None else {"LOCAL_KEY": value}))
    assert str(refused.value).startswith("node 'local': key_env: ")
    assert "LOCAL_KEY" in str(refused.value)
    assert not (value or "").strip() or str(value) not in str(refused.value)


def test_solvers_share_their_processes_and_the_last_one_ends_them() -> None:
    """One that is closed takes nothing from the others."""
    text = '[[node]]\nid="a"\nkind="solver"\nmodels=["symbolic", "search"]\n'

    async def run() -> None:
        one, two, three = make(text + text.replace('"a"', '"b"') + text.replace('"a"', '"c"'))
        question = a_call(prompt="Solve for k: 840*k = 10920", model="symbolic")
        assert (await one.ask(question)).text == (await two.ask(question)).text == "13"
        await one.close()
        await three.close()
        assert (await two.ask(question)).text == "13"
        await two.close()
        assert (await two.ask(question)).text == "13"
        await two.close()

    asyncio.run(run())


class OwnNode:
    """As users write them."""

    def __init__(self, entry: NodeEntry) -> None:
        self.capabilities = entry.capabilities()
        self.colour = entry.options["colour"]

    async def ask(self, call: Call) -> Answer:
        """Say the colour."""
        return Answer(node=call.node, model=call.model, text=self.colour)

    async def close(self) -> None:
        """Nothing to let go of."""


OWN = '[[node]]\nid = "own"\nkind = "own_module:make"\nmodels = ["m"]\noptions = {colour = "blue"}\n'


def with_own(monkeypatch: pytest.MonkeyPatch, make_node: Any) -> None:
    """Put a module with a node of the user's where it is imported from."""
    module = ModuleType("own_module")
    module.make = make_node  # type: ignore[attr-defined] # it is made up here
    monkeypatch.setitem(sys.modules, "own_module", module)


def test_a_new_kind_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `KINDS`: with it an entry is checked, its node made, and it is among those that there are."""
    text = '[[node]]\nid = "own"\nkind = "echo"\nmodels = ["m"]\n'
    with pytest.raises(RefusedError, match=f"kind: 'echo' is none of {', '.join(KINDS)}, and"):
        parse_nodes(text.encode())
    kind = Kind(lambda entry: "" if entry.options else "options: say how", lambda entry, _key, _pool: OwnNode(entry))
    monkeypatch.setattr(nodes_file, "KINDS", {**KINDS, "echo": kind})
    with pytest.raises(RefusedError, match=r"^node 'own': options: say how$"):
        parse_nodes(text.encode())
    (node,) = make(text + 'options = {colour = "red"}')
    assert asyncio.run(node.ask(a_call())).text == "red"
    with pytest.raises(RefusedError, match=f"is none of {', '.join(KINDS)}, echo, and no module:callable"):
        parse_nodes(text.replace("echo", "ecko").encode())


def test_a_kind_of_the_users_own_is_called_with_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """And finds its options there."""
    with_own(monkeypatch, OwnNode)
    (node,) = make(OWN)
    assert asyncio.run(node.ask(a_call())).text == "blue"


def test_a_kind_that_gives_no_such_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or that is not there."""
    with_own(monkeypatch, lambda _entry: None)
    with pytest.raises(RefusedError, match=r"^node 'own': kind: own_module:make gave no node of this id; return one"):
        make(OWN)
    with_own(monkeypatch, lambda entry: entry.options["color"])
    with pytest.raises(RefusedError, match=r"^node 'own': kind: own_module:make cannot be made: KeyError: 'color' \("):
        make(OWN)
    with pytest.raises(RefusedError, match=r"^node 'own': kind='no_module:make': No module named 'no_module'"):
        make(OWN.replace("own_module", "no_module"))


def test_a_kind_that_refuses_its_entry_says_why_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the name of the node, and without the place in its code."""

    def make_node(_entry: NodeEntry) -> Node:
        raise RefusedError("options.color: blue is sold out")

    with_own(monkeypatch, make_node)
    with pytest.raises(RefusedError, match=r"^node 'own': kind: options\.color: blue is sold out$"):
        make(OWN)


def test_without_its_extra_the_language_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(RefusedError, match=r"^node 'small': kind: llm needs \w+, .*: pip install 'aureon\[llm\]'"):
        make('[[node]]\nid = "small"\nkind = "llm"\nmodels = ["smollm2"]')


def test_the_language_model_is_made_with_what_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only then imported."""
    made: list[tuple[NodeCapabilities, dict[str, Any]]] = []
    module = ModuleType("connectors.nodes.llm")

    def make_node(capabilities: NodeCapabilities, **given: Any) -> str:
        made.append((capabilities, given))
        return "node"

    module.LlmNode = make_node  # type: ignore[attr-defined] # it is made up here
    monkeypatch.setitem(sys.modules, "connectors.nodes.llm", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    entry = '[[node]]\nid = "small"\nkind = "llm"\nmodels = ["smollm2"]\n'
    make(entry)
    make(entry + "temperature = [0.5]\nseed = 3")
    capabilities = NodeCapabilities(node="small", models=("smollm2",))
    assert made == [(capabilities, {}), (capabilities, {"temperature": (0.5,), "seed": 3})]
