"""`aureon nodes check`: asks each node how it is, and shows which answer, with which models."""

import argparse
import asyncio
import time

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from connectors.nodes import CheckedNode, Node, NodeError
from connectors.nodes.registry import NodeRegistry
from flows.commands.arguments import settings_of
from flows.prompts import Prompts
from flows.settings import import_object
from flows.terminal import FAILED, OK, show

LIMIT_S = 5.0


class NodeCheck(Struct, frozen=True, kw_only=True):
    """What came of asking one node; `--json` prints a list of these."""

    node: str
    kind: str
    reachable: bool | None
    """None for a node that cannot be asked."""
    models: tuple[str, ...]
    """Those that it is configured with."""
    missing: tuple[str, ...] = ()
    """Of these, what the node does not have."""
    not_loaded: tuple[str, ...] = ()
    """Of these, what has to be loaded before it answers."""
    latency_s: float | None = None
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether calls to it may be answered, as far as one can tell."""
        return self.reachable is not False and not self.missing


def main(options: argparse.Namespace) -> int:
    """Ask all nodes at once, and print what they say."""
    registry = NodeRegistry(settings_of(options).nodes, import_object, Prompts)
    checks = asyncio.run(_check_all(registry))
    if options.json:
        show(msgspec.json.encode(checks).decode())
    else:
        _print(checks)
    return OK if all(check.good for check in checks) else FAILED


async def _check_all(registry: NodeRegistry[Prompts]) -> list[NodeCheck]:
    kinds = registry.present.kinds
    nodes = registry.nodes
    try:
        return list(await asyncio.gather(*(_check(node, kinds[name]) for name, node in nodes.items())))
    finally:
        await asyncio.gather(*(node.close() for node in nodes.values()))


async def _check(node: Node, kind: str) -> NodeCheck:
    name, models = node.capabilities.node, node.capabilities.models
    if not isinstance(node, CheckedNode):
        return NodeCheck(node=name, kind=kind, reachable=None, models=models)
    started = time.perf_counter()
    try:
        async with asyncio.timeout(LIMIT_S):
            report = await node.check()
    except TimeoutError:
        error = f"{name}: no answer within {LIMIT_S:g} s"
    except NodeError as failure:
        error = str(failure)
    except Exception as failure:  # noqa: BLE001 - a node of the user's may raise anything; the others are shown too
        error = f"{name}: {type(failure).__name__}: {failure}"
    else:
        return NodeCheck(
            node=name,
            kind=kind,
            reachable=True,
            models=models,
            missing=tuple(m for m in models if m not in report.models),
            not_loaded=tuple(m for m in models if m in report.models and m not in report.loaded),
            latency_s=round(time.perf_counter() - started, 6),
        )
    return NodeCheck(node=name, kind=kind, reachable=False, models=models, error=error)


def _print(checks: list[NodeCheck]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("node", "kind", "reachable", "models"):
        table.add_column(name)
    table.add_column("latency", justify="right")
    for check in checks:
        reachable = {True: "yes", False: "no", None: "cannot be asked"}[check.reachable]
        latency = "" if check.latency_s is None else f"{check.latency_s * 1000:,.0f} ms"
        table.add_row(check.node, check.kind, reachable, ", ".join(_marked(check)), latency)
    console = Console(highlight=False, markup=False)
    console.print(table)
    for check in checks:
        if check.error:
            console.print(check.error, soft_wrap=True)


def _marked(check: NodeCheck) -> list[str]:
    marks = dict.fromkeys(check.missing, " (missing)") | dict.fromkeys(check.not_loaded, " (not loaded)")
    return [model + marks.get(model, "") for model in check.models]
