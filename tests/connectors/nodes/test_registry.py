"""The nodes there are now, while their file changes."""

import asyncio
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from connectors.nodes import Node
from connectors.nodes.nodes_file import PromptTexts
from connectors.nodes.registry import NodeRegistry
from flows.prompts import Prompts
from flows.settings import import_object
from schemas.errors import RefusedError
from tests.connectors.asked import a_call, arrived
from tests.connectors.nodes.test_nodes_file import OWN, OwnNode, with_own
from tests.openai_server import HANG, OpenAIServer

Registry = NodeRegistry[Prompts]


def entry(name: str, url: str = "http://127.0.0.1:1/v1", **more: Any) -> str:
    """A node in the file."""
    fields = "".join(f"{field} = {value}\n" for field, value in more.items())
    return f'[[node]]\nid = "{name}"\nkind = "openai"\nurl = "{url}"\nmodels = ["m"]\n{fields}'


def rewrite(path: Path, text: str) -> None:
    """Change the file; for sure later than before, on any file system."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def registry(path: Path, **environment: str) -> Registry:
    """That of a file."""
    return NodeRegistry(str(path), import_object, Prompts, environment)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with two nodes."""
    file = tmp_path / "nodes.toml"
    file.write_text(entry("a") + entry("b"))
    return file


def test_nodes_come_from_a_function_as_they_always_did() -> None:
    """They do not change."""
    found = NodeRegistry("connectors.nodes.embedded:embedded_nodes", import_object, Prompts)
    assert list(found.nodes) == ["embedded-symbolic", "embedded-numeric", "embedded-search"]
    assert set(found.present.kinds.values()) == {"SolverNode"}
    assert (found.present.version, found.refresh()) == (1, ())


def test_what_is_no_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it is, and what it lacks."""
    with_own(monkeypatch, lambda: ["http://127.0.0.1:1/v1"])
    with pytest.raises(
        RefusedError, match=r"^AUREON_NODES='own_module:make': gave str, which has no `capabilities` of a node$"
    ):
        NodeRegistry("own_module:make", import_object, Prompts)


def test_what_a_function_refuses_is_said_as_it_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is for people already."""

    def refuse() -> list[Node]:
        raise RefusedError("no node is at home")

    with_own(monkeypatch, refuse)
    with pytest.raises(RefusedError, match=r"^no node is at home$"):
        NodeRegistry("own_module:make", import_object, Prompts)


def test_two_nodes_of_one_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One would take the other's calls."""
    with_own(monkeypatch, lambda: [*import_object("connectors.nodes.embedded:embedded_nodes", "nodes")()] * 2)
    with pytest.raises(RefusedError, match="two of its nodes have the same id"):
        NodeRegistry("own_module:make", import_object, Prompts)


def test_a_file_that_is_wrong_at_the_start_is_refused(path: Path) -> None:
    """There is nothing to go on with."""
    rewrite(path, entry("a", weight=0))
    with pytest.raises(RefusedError, match=r"^nodes\.toml: node 'a': weight: Expected float > 0\.0$"):
        registry(path)
    rewrite(path, entry("a", key_env='"NOT_SET"'))
    with pytest.raises(RefusedError, match=r"^nodes\.toml: node 'a': key_env: the environment variable NOT_SET"):
        registry(path)
    rewrite(path, entry("a") + "[prompts.math]\nfirst = '$x'")
    with pytest.raises(RefusedError, match=r"^nodes\.toml: prompts\.math: first: \$x is not known here"):
        registry(path)


def test_a_node_whose_entry_did_not_change_stays_the_same(path: Path) -> None:
    """Its connections and all that is known of it with it; those that are no more are given back."""
    found = registry(path)
    a, b = found.nodes.values()
    assert found.refresh() == ()
    rewrite(path, entry("c") + entry("b", weight=2) + entry("a"))
    assert found.refresh() == (b,)
    assert list(found.nodes) == ["c", "b", "a"]
    assert found.nodes["a"] is a
    assert found.nodes["b"] is not b
    assert found.present.version == 2
    rewrite(path, entry("c"))
    assert found.refresh() == (b, a) or len(found.nodes) == 1
    assert found.present.version == 3


def test_what_is_read_stays_of_one_version(path: Path) -> None:
    """A reader that took it before a change sees nothing of it, and nobody can change it."""
    found = registry(path)
    before = found.present
    rewrite(path, entry("c") + "[prompts.default]\nsystem = 'x'")
    found.refresh()
    assert list(before.nodes) == ["a", "b"]
    assert before.prompts is not found.prompts
    with pytest.raises(TypeError):
        before.nodes["d"] = before.nodes["a"]  # type: ignore[index] # that is what is tried


def test_a_file_that_was_only_touched_changes_nothing(path: Path) -> None:
    """Nor does a comment."""
    found = registry(path)
    nodes = dict(found.nodes)
    rewrite(path, "# ours\n" + path.read_text())
    assert (found.refresh(), found.present.version, dict(found.nodes)) == ((), 1, nodes)


def test_new_prompts_leave_the_nodes_alone(path: Path) -> None:
    """They are another version all the same."""
    found = registry(path)
    nodes = dict(found.nodes)
    rewrite(path, path.read_text() + "[prompts.default]\nsystem = 'Be brief.'")
    assert found.refresh() == ()
    assert dict(found.nodes) == nodes
    assert found.present.version == 2


@pytest.mark.parametrize("bad", ["", "[[node]", entry("a", weight=0), entry("a") * 2, None])
def test_a_bad_file_is_logged_once_and_the_nodes_stay(
    path: Path, bad: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Until it is a good one again."""
    found = registry(path)
    nodes, good = dict(found.nodes), path.read_text()
    if bad is None:
        path.unlink()
    else:
        rewrite(path, bad)
    assert found.refresh() == found.refresh() == ()
    assert dict(found.nodes) == nodes
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "nodes.toml: " in record.message
    assert record.message.endswith("the nodes stay as they were")
    rewrite(path, good)
    found.refresh()
    rewrite(path, good + entry("c"))
    found.refresh()
    assert list(found.nodes) == ["a", "b", "c"]
    mended = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert mended == ["nodes.toml: read again, 2 nodes, 0 of them new"]


def test_what_was_made_for_a_file_that_is_then_refused_is_given_back(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may hold something."""
    found = registry(path)
    with_own(monkeypatch, OwnNode)
    rewrite(path, OWN + OWN.replace('"own"', '"other"').replace("own_module", "no_module"))
    (made,) = found.refresh()
    assert made.capabilities.node == "own"
    assert "No module named 'no_module'" in caplog.text
    with_own(monkeypatch, lambda entry: 1 / len(entry.url))
    rewrite(path, OWN)
    assert found.refresh() == ()
    assert "node 'own': kind: own_module:make cannot be made: ZeroDivisionError" in caplog.text
    assert list(found.nodes) == ["a", "b"]


def test_many_threads_read_while_one_changes_it(path: Path) -> None:
    """Each sees one version or the other, whole."""
    found = registry(path)
    seen: set[tuple[int, tuple[str, ...]]] = set()
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            present = found.present
            seen.add((present.version, tuple(present.nodes)))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(2, 8):
        rewrite(path, "".join(entry(f"n{i}") for i in range(n)))
        found.refresh()
    over.set()
    for thread in threads:
        thread.join()
    assert seen <= {(1, ("a", "b"))} | {(n, tuple(f"n{i}" for i in range(n))) for n in range(2, 8)}


def test_a_server_can_be_added_and_taken_out_under_load(path: Path) -> None:
    """The calls of one that stays go on; what is under way at one that goes fails when it is closed, and can be tried
    elsewhere.
    """

    async def run(first: OpenAIServer, second: OpenAIServer) -> None:
        rewrite(path, entry("a", first.url) + entry("b", second.url))
        found = registry(path)
        second.faults.append(HANG)
        first.latency_s = 0.3
        stays, goes = (asyncio.create_task(node.ask(a_call())) for node in found.nodes.values())
        await arrived(first)
        await arrived(second)
        rewrite(path, entry("a", first.url) + entry("c", second.url))
        gone: tuple[Node, ...] = found.refresh()
        for node in gone:
            await node.close()
        results = await asyncio.gather(stays, goes, found.nodes["c"].ask(a_call()), return_exceptions=True)
        assert [getattr(r, "text", None) or getattr(r, "failure", None) for r in results] == ["42", "closed", "42"]
        for node in found.nodes.values():
            await node.close()

    with OpenAIServer() as first, OpenAIServer() as second:
        asyncio.run(run(first, second))


def test_prompts_are_whatever_is_made_of_the_texts(path: Path) -> None:
    """The registry knows nothing of templates."""
    rewrite(path, path.read_text() + "[prompts.math]\nfirst = 'x'")

    def take(texts: Mapping[str, PromptTexts]) -> list[str]:
        return list(texts)

    assert NodeRegistry(str(path), import_object, take).prompts == ["math"]
