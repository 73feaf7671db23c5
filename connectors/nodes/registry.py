"""Which nodes and prompts there are now: from a function of the user's, or from a file that may change at any time."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from msgspec import Struct

from connectors.nodes import Node
from connectors.nodes.nodes_file import NodeEntry, NodeMaker, PromptTexts, read_nodes_file
from schemas.errors import RefusedError, failure_of
from schemas.node import NodeCapabilities

log = logging.getLogger(__name__)

P = TypeVar("P")

Signature = tuple[int, int, int]
"""Of a file: when it was changed, its size, and which one it is."""


class Present(Struct, Generic[P], frozen=True):
    """All that there is at one time; never changed, only replaced."""

    version: int
    """Rises with each change."""
    nodes: Mapping[str, Node]
    kinds: Mapping[str, str]
    """What the file calls each node's kind; the class where there is no file."""
    prompts: P
    entries: tuple[NodeEntry, ...] = ()
    texts: Mapping[str, PromptTexts] = {}


class NodeRegistry(Generic[P]):
    """The nodes and prompts of a process. Any thread may read; whoever refreshes closes what `refresh` gives back.

    Args:
        setting: `module:function` that gives the nodes, or the path of a file that ends in `.toml`.
        import_object: imports `module:attribute`; the second argument is what names it.
        make_prompts: makes the prompts of the texts by topic.
        environment: where the keys are; os.environ by default.

    Raises:
        RefusedError: what the setting names is not there or is wrong.
    """

    def __init__(
        self,
        setting: str,
        import_object: Callable[[str, str], Any],
        make_prompts: Callable[[Mapping[str, PromptTexts]], P],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._path = Path(setting) if setting.endswith(".toml") else None
        self._make_prompts = make_prompts
        self._maker = NodeMaker(import_object, environment)
        self._refreshing = threading.Lock()
        self._signature: Signature | None = None
        self._is_bad = False
        """Whether the file was refused when it was read last."""
        if self._path is None:
            self._present = self._from_function(import_object(setting, "AUREON_NODES"), setting)
        else:
            self._signature = _signature(self._path)
            self._present = self._from_file(self._path, None, [])

    @property
    def present(self) -> Present[P]:
        """All that there is now, of one version."""
        return self._present

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by id, in the order of the file."""
        return self._present.nodes

    @property
    def prompts(self) -> P:
        """How they are asked."""
        return self._present.prompts

    def refresh(self) -> tuple[Node, ...]:
        """Read the file again if it has changed; a bad one is logged once, and what there was stays.

        Returns:
            The nodes that are no more, for the caller to close. One whose entry has not changed stays the same object.
        """
        if self._path is None or not self._refreshing.acquire(blocking=False):
            return ()
        try:
            signature = _signature(self._path)
            if signature == self._signature:
                return ()
            self._signature = signature
            before, made = self._present, list[Node]()
            try:
                now = self._from_file(self._path, before, made)
            except Exception as error:  # noqa: BLE001 - a callable of the user's may raise anything, and the cell goes on
                known = isinstance(error, RefusedError)
                log.error("%s; the nodes stay as they were", error if known else f"{self._path.name}: {error!r}")  # noqa: TRY400 - people read it
                self._is_bad = True
                return tuple(made)
            self._present = now
            kept = set(map(id, now.nodes.values()))
            gone = tuple(node for node in before.nodes.values() if id(node) not in kept)
            if now.version > before.version or self._is_bad:
                # whoever was told that it is bad wants to know that it is good again
                level = logging.WARNING if self._is_bad else logging.INFO
                log.log(level, "%s: read again, %d nodes, %d of them new", self._path.name, len(now.nodes), len(made))
            self._is_bad = False
            return gone
        finally:
            self._refreshing.release()

    def _from_function(self, give: Callable[[], Sequence[Node]], setting: str) -> Present[P]:
        try:
            nodes = list(give())
        except RefusedError:
            raise
        except Exception as error:  # a user's function; whatever is wrong is told with its place
            raise RefusedError(f"AUREON_NODES={setting!r} cannot be called: {failure_of(error)}") from error
        for node in nodes:
            if not isinstance(getattr(node, "capabilities", None), NodeCapabilities):
                gave = f"gave {type(node).__name__}, which has no `capabilities` of a node"
                raise RefusedError(f"AUREON_NODES={setting!r}: {gave}")
        by_id = {node.capabilities.node: node for node in nodes}
        if len(by_id) < len(nodes):
            raise RefusedError(f"AUREON_NODES={setting!r}: two of its nodes have the same id; each needs its own")
        kinds = {name: type(node).__name__ for name, node in by_id.items()}
        return Present(1, MappingProxyType(by_id), MappingProxyType(kinds), self._make_prompts({}))

    def _from_file(self, path: Path, before: Present[P] | None, made: list[Node]) -> Present[P]:
        """Read the file; nodes that are new go into `made` as soon as they are there."""
        found = read_nodes_file(path)
        if before is not None and (found.node, found.prompts) == (before.entries, before.texts):
            return before
        try:
            prompts = self._make_prompts(found.prompts)
            old = {entry.id: entry for entry in before.entries} if before is not None else {}
            nodes: dict[str, Node] = {}
            for entry in found.node:
                if before is not None and old.get(entry.id) == entry:
                    nodes[entry.id] = before.nodes[entry.id]
                else:
                    nodes[entry.id] = self._maker.make(entry)
                    made.append(nodes[entry.id])
        except RefusedError as error:
            raise RefusedError(f"{path.name}: {error}") from None
        return Present(
            version=before.version + 1 if before is not None else 1,
            nodes=MappingProxyType(nodes),
            kinds=MappingProxyType({entry.id: entry.kind for entry in found.node}),
            prompts=prompts,
            entries=found.node,
            texts=found.prompts,
        )


def _signature(path: Path) -> Signature | None:
    """Tell one state of a file from another, without reading it; None is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
