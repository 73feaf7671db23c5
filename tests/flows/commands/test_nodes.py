"""`aureon nodes check`: which nodes answer."""

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import cli
from tests.aureon_command import aureon
from tests.openai_server import HANG, OpenAIServer, error
from tests.secure_kafka import Authority

SOLVERS = '[[node]]\nid = "exact"\nkind = "solver"\nmodels = ["symbolic", "numeric"]\n'


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """A server with two models, of which one has to be loaded."""
    with OpenAIServer(models=[{"id": "small", "state": "loaded"}, {"id": "large", "state": "not-loaded"}]) as one:
        yield one


def openai(name: str, url: str, models: str = '"small"') -> str:
    """A node in the file."""
    return f'[[node]]\nid = "{name}"\nkind = "openai"\nurl = "{url}"\nmodels = [{models}]\n'


def test_nodes_are_shown_with_their_models_and_how_fast_they_are(server: OpenAIServer, tmp_path: Path) -> None:
    """Those that cannot be asked are no reason for an exit code."""
    (tmp_path / "nodes.toml").write_text(openai("local", server.url, '"small", "large"') + SOLVERS)
    done = aureon("nodes", "check", cwd=tmp_path, AUREON_NODES="nodes.toml")
    assert (done.returncode, done.stderr) == (0, "")
    header, local, exact = done.stdout.splitlines()
    assert header.split() == ["node", "kind", "reachable", "models", "latency"]
    assert local.startswith("local  openai  yes              small, large (not loaded)  ")
    assert local.endswith(" ms")
    assert exact.split("  ") == ["exact", "solver", "cannot be asked", "symbolic, numeric", *exact.split("  ")[4:]]
    assert not any(text.strip() for text in exact.split("  ")[4:])


def test_a_node_that_is_away_or_lacks_a_model_ends_with_1(
    server: OpenAIServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are asked at once, so that one that hangs costs its limit and no more."""
    monkeypatch.setattr("flows.commands.nodes.LIMIT_S", 0.5)
    path = tmp_path / "nodes.toml"
    with OpenAIServer() as hanging, OpenAIServer() as broken:
        hanging.models_fault = HANG
        broken.models_fault = error(401, "who are you?")
        path.write_text(
            openai("local", server.url, '"small", "huge"')
            + openai("away", "http://127.0.0.1:1/v1")
            + openai("hangs", hanging.url)
            + openai("broken", broken.url)
        )
        assert cli.main(["nodes", "check", "--nodes", str(path), "--json"]) == 1
        shown = json.loads(capsys.readouterr().out)
        assert cli.main(["nodes", "check", "--nodes", str(path)]) == 1
    by_node = {check["node"]: check for check in shown}
    assert by_node["local"]["missing"] == ["huge"]
    assert [check["reachable"] for check in shown] == [True, False, False, False]
    assert by_node["hangs"]["error"] == "hangs: no answer within 0.5 s"
    assert by_node["broken"]["error"] == "broken: HTTP 401: who are you?"
    table = capsys.readouterr().out
    assert "small, huge (missing)" in table
    assert "away: no connection: 127.0.0.1:1 [" in table


def test_a_missing_model_alone_ends_with_1(server: OpenAIServer, tmp_path: Path) -> None:
    """Calls to it would be rejected."""
    path = tmp_path / "nodes.toml"
    path.write_text(openai("local", server.url, '"huge"'))
    assert cli.main(["nodes", "check", "--nodes", str(path)]) == 1


def test_a_bad_file_is_refused(tmp_path: Path) -> None:
    """In one line."""
    (tmp_path / "nodes.toml").write_text(openai("local", "nowhere"))
    done = aureon("nodes", "check", "--nodes", "nodes.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "aureon: nodes.toml: node 'local': url: Expected http:// or https:// and a host\n"


def test_nodes_of_a_function_are_checked_too(capsys: pytest.CaptureFixture[str]) -> None:
    """The default ones."""
    assert cli.main(["nodes", "check", "--json"]) == 0
    assert {(c["kind"], c["reachable"]) for c in json.loads(capsys.readouterr().out)} == {("SolverNode", None)}


def test_an_authority_of_ones_own_is_trusted_where_it_is_named(tmp_path: Path) -> None:
    """By the variable that most programs know; without it the server is not who it says it is."""
    authority = Authority(tmp_path / "authority.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(authority.issue(tmp_path / "server.pem", "server"))
    with OpenAIServer(models=["small"], tls=tls) as server:
        (tmp_path / "nodes.toml").write_text(openai("local", server.url))
        check = ("nodes", "check", "--nodes", "nodes.toml")
        refused = aureon(*check, cwd=tmp_path)
        trusted = aureon(*check, cwd=tmp_path, SSL_CERT_FILE="authority.pem")
    assert (refused.returncode, trusted.returncode) == (1, 0)
    assert "CERTIFICATE_VERIFY_FAILED" in refused.stdout


def test_a_node_that_raises_whatever_is_shown_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are shown, too."""
    (tmp_path / "broken_nodes.py").write_text(
        "from tests.flows.test_troubled_nodes import Broken, answers\n"
        "class Odd(Broken):\n"
        "    async def check(self): raise KeyError('a fault of its own')\n"
        "    async def close(self): pass\n"
        "def nodes(): return [Odd(answers, name='odd')]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.main(["nodes", "check", "--json", "--nodes", "broken_nodes:nodes"]) == 1
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["reachable"], shown["error"]) == (False, "odd: KeyError: 'a fault of its own'")
