"""The tree: who may import whom, what only one place knows, and a README in each folder."""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.aureon_command import ROOT
from tests.pages import FOLDERS, README, prose

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
"""All modules, by name."""
CODE = sorted({path.parent for path in FILES.values()} | {ROOT / "flows" / "deploy", ROOT / "flows" / "guide"})
MAX_LINES = 25

KNOWS: Mapping[str, set[str]] = {
    "schemas": set(),
    "connectors": {"schemas"},
    "one_lake": {"schemas", "connectors"},
    "flows": {"schemas", "connectors", "one_lake"},
    "tests": {"schemas", "connectors", "one_lake", "flows"},
}
LAKE_USES = {"blobs", "embeddings", "file_lock", "processes", "told_errors", "whole_files"}
"""Of the connectors: files, and nothing of Kafka or nodes."""


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of Aureon that a module imports, wherever in its text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in map(_module, found) if name and name != module)


def _module(name: str) -> str:
    """The module in which a name is; "" where it is none of ours."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name


def pairs(package: str) -> Iterator[tuple[str, str]]:
    """Who imports whom, of those in a package."""
    for module in FILES:
        if module == package or module.startswith(f"{package}."):
            yield from ((module, other) for other in imports(module))


def test_the_scan_sees_what_is_there() -> None:
    """Else all that follows would hold."""
    assert {"flows.steps.plan", "connectors.topics", "one_lake.output", "schemas.decision"} <= imports("flows.refine")
    assert len(FILES) > 250


@pytest.mark.parametrize("package", FOLDERS)
def test_dependencies_go_one_way(package: str) -> None:
    """From schemas to the flows."""
    assert not {(m, o) for m, o in pairs(package) if o.partition(".")[0] not in {package, *KNOWS[package]}}


def test_the_lake_knows_files_and_nothing_of_kafka() -> None:
    """Nor of nodes."""
    assert {o.split(".")[1] for _, o in pairs("one_lake") if o.startswith("connectors.")} <= LAKE_USES


def test_no_step_knows_another() -> None:
    """What passes from one to the next is `flows.items`."""
    known = set(pairs("flows.steps"))
    assert ("flows.steps.plan", "flows.items") in known
    assert not {(step, other) for step, other in known if other.startswith("flows.steps.")}


def test_only_the_command_line_knows_commands() -> None:
    """And commands each other; the examples print tables as `aureon sql` does."""
    users = {module for module, other in pairs("flows") if other.startswith("flows.commands.")}
    assert {module for module in users if not module.startswith(("flows.commands.", "flows.examples."))} == {
        "flows.cli"
    }


def test_there_are_no_cycles() -> None:
    """Of modules that import each other, also within a function."""
    TopologicalSorter({module: imports(module) for module in FILES}).prepare()


PATHS = re.compile(r"_delta_log|part-.*\.parquet")
LAKE = re.compile(r"(?<![a-z])lake(_dir|_folder)?\)*$")


@pytest.mark.parametrize("package", ["flows", "connectors", "schemas"])
def test_only_the_lake_knows_its_paths(package: str) -> None:
    """Nobody else puts a name behind the lake's folder, or names what is in it."""
    for module, path in FILES.items():
        if module.partition(".")[0] != package:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                assert not LAKE.search(ast.unparse(node.left)), f"{module}:{node.lineno}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not PATHS.search(node.value), f"{module}:{node.lineno}"


PURE = re.compile(r"\b[Pp]ure\b(?! logic first)")
IMPURE = {"asyncio", "confluent_kafka", "deltalake", "duckdb", "os", "random", "socket", "subprocess", "time"}


def test_what_says_that_it_is_pure_has_no_clock_and_no_files() -> None:
    """Its times are handed in."""
    pure = {m for m, p in FILES.items() if PURE.search(ast.get_docstring(ast.parse(p.read_text())) or "")}
    impure = set()
    for module in sorted(m for m in pure if not m.startswith("tests.")):
        tree = ast.parse(FILES[module].read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        if {name.partition(".")[0] for name in names} & {*IMPURE, "one_lake"}:
            impure.add(module)
    assert len(pure) >= 20
    assert not impure


@pytest.mark.parametrize("folder", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_each_folder_says_what_is_in_it(folder: Path) -> None:
    """In few lines: what is there, what may be touched, how to test just this."""
    text = (folder / "README.md").read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert text.startswith(f"# {folder.relative_to(ROOT).as_posix()}\n") or folder.name in ("deploy", "guide")
    assert "make test" in text or "pytest" in text or folder.name == "deploy"


@pytest.mark.parametrize("folder", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_folder_says_is_there(folder: Path) -> None:
    """Files and folders by their paths, tests by theirs, and modules that are run."""
    text = prose((folder / "README.md").read_text())
    for name in re.findall(r"`((?:flows|connectors|schemas|one_lake|tests)/[\w./]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\btests(?:/\w+)+(?:\.py)?", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"python -m (tests[\w.]*)", text):
        assert name in FILES, name
    for cell in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        for name in re.findall(r"`([a-z]\w*)`", cell):
            assert (folder / f"{name}.py").exists() or (folder / name).is_dir(), name
    for name in re.findall(r"`(\w+\.py)`", text):
        assert (folder / name).exists() or list(ROOT.glob(f"*/{name}")) or list(ROOT.glob(f"*/*/{name}")), name


def test_readme_names_the_folders_of_tests() -> None:
    """By their READMEs."""
    assert all(f"({folder}/README.md)" in README for folder in FOLDERS)
