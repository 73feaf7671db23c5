"""One frozen Settings: every flag of `aureon`, its environment variable, its default.

A field `max_rounds` is the flag `--max-rounds` and the variable `AUREON_MAX_ROUNDS`; a flag goes before a variable.
"""

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from connectors.toml_file import about_fields, place_and_problem
from schemas.errors import RefusedError, failure_of
from schemas.task import Allowance

PREFIX = "AUREON_"
CELLS = "cells"
"""The folder in a home where `aureon up` has the state folders of its cells, and all logs."""

Positive = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]
"""Thirty years at most: what waits takes no more, and none of it is infinite."""
Name = Annotated[str, Meta(min_length=1)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run of Aureon can be told."""

    home: Annotated[Name, Meta(description="folder that holds all below unless said otherwise")] = ".aureon"
    brokers: Annotated[str, Meta(description="Kafka bootstrap servers, host:port,…; empty: the embedded broker")] = ""
    kafka_config: Annotated[
        str, Meta(description="more client properties for librdkafka: key=value;key=value, or @FILE with one a line")
    ] = ""
    state: Annotated[str, Meta(description="state folder of this cell; empty: <home>/state")] = ""
    lake: Annotated[str, Meta(description="folder of ONE, the lake; empty: <home>/lake")] = ""
    blobs: Annotated[
        str, Meta(description="store of what is large, a folder or a URL that fsspec knows; empty: <home>/blobs")
    ] = ""
    key_file: Annotated[
        str, Meta(description="the cluster's key, the same for all cells; empty: <home>/cluster.key")
    ] = ""
    lanes: Annotated[
        int,
        Meta(
            ge=0,
            le=150,
            description="partitions of each Kafka topic, fixed for good, at most 150; 0: as they are, or 4",
        ),
    ] = 0
    replication: Annotated[
        int, Meta(ge=1, le=100, description="replicas of each Kafka topic, where they have to be created")
    ] = 1
    group: Annotated[Name, Meta(description="consumer group in which cuts are committed")] = "aureon"
    cell: Annotated[
        str,
        Meta(description="fixed lanes, i/n: of n cells this is number i; empty: on Kafka the group hands them out"),
    ] = ""
    workers: Annotated[int, Meta(ge=1, le=256, description="worker threads of this cell")] = 1
    snapshot_s: Annotated[int, Meta(ge=1, le=9999, description="seconds between snapshots and commits to the lake")] = 2

    gate: Annotated[
        str, Meta(description="what judges records before they are written: on, off, or a suite of Great Expectations")
    ] = "on"

    nodes: Annotated[str, Meta(description="module:function that gives the nodes, or a file, nodes.toml")] = (
        "connectors.nodes.embedded:embedded_nodes"
    )
    routing: Annotated[
        str, Meta(description="which models are asked: all, best-N, or cascade (cheap first, more until they agree)")
    ] = "all"
    cascade_first: Annotated[Positive, Meta(description="how many models a cascade asks at first")] = 3
    cascade_agree: Annotated[
        Share,
        Meta(
            description="a cascade stops where models agree with this confidence, or AUREON_SCORE_THRESHOLD if higher"
        ),
    ] = 0.98
    policy: Annotated[
        str,
        Meta(description="when a task has converged: threshold, value, verifier, stability, any(…), all(…), or yours"),
    ] = "threshold"
    answer_value: Annotated[
        float,
        Meta(
            ge=0, le=1e9, description="to the policy `value`: what a right answer is worth, in money, or else in calls"
        ),
    ] = 50.0
    verifiers: Annotated[str, Meta(description="more verifiers, module:function,…; known by the function's name")] = ""
    symbolic_s: Annotated[
        Seconds, Meta(description="how long sympy may compare two expressions whose values do not tell; 0: not at all")
    ] = 1.0
    text_similarity: Annotated[
        Share,
        Meta(description="texts that are so near in meaning are one answer, such as 0.9; 0: by their words alone"),
    ] = 0.0
    supervision: Annotated[
        str, Meta(description="file of supervision's policies, supervision.toml; empty: the built-in list")
    ] = ""
    verifier_s: Annotated[
        Seconds, Meta(description="how long a verifier may take over the answers of a round; then it has no verdict")
    ] = 30.0
    sandbox_s: Annotated[
        float,
        Meta(gt=0, le=9999, description="seconds that a program under test may run; of processors it may use one more"),
    ] = 5.0
    sandbox_bytes: Annotated[
        int, Meta(ge=1 << 26, le=1_000_000_000_000, description="how much memory a program under test may take")
    ] = 1 << 28
    score_threshold: Annotated[
        Share, Meta(description="threshold without a number of its own accepts from this score on")
    ] = 0.85
    max_rounds: Annotated[
        Positive,
        Meta(
            description="rounds after which a built-in policy takes what there is, or gives up (verifier); what is "
            "rejected is dead"
        ),
    ] = 3
    max_attempts: Annotated[
        Positive, Meta(description="attempts at a round whose calls all failed, before it is dead")
    ] = 3
    retry_delay_s: Annotated[Seconds, Meta(description="how long a failed round waits before its next attempt")] = 5.0
    call_tries: Annotated[Positive, Meta(description="tries of one call within its round")] = 3
    call_backoff_s: Annotated[
        Seconds, Meta(description="pause before the second try of a call; doubles, with jitter")
    ] = 0.2
    task_budget: Annotated[
        str,
        Meta(description="what one task may spend in its rounds and retries: calls=20;tokens=50000;cost=0.5"),
    ] = ""
    root_budget: Annotated[
        str, Meta(description="what a root task may spend with all that comes of it; a task's own budget may lower it")
    ] = ""
    day_budget: Annotated[
        str, Meta(description="what all tasks may spend in a day, UTC; each lane has an equal share of it")
    ] = ""
    branching: Annotated[
        str, Meta(description="what follows from records: a file, branching.toml, or module:callable of a planner")
    ] = ""
    max_depth: Annotated[Count, Meta(description="how many branchings deep a root task may go")] = 3
    max_branches: Annotated[Count, Meta(description="how many branches a root task may have in all")] = 16
    max_task_bytes: Annotated[Bytes, Meta(description="a larger task message is a dead letter")] = 1 << 20
    blob_bytes: Annotated[
        int,
        Meta(ge=1024, le=1_000_000_000_000, description="a payload or an answer of more bytes goes to the blob store"),
    ] = 1 << 16

    node_silence_s: Annotated[
        float,
        Meta(ge=5, le=1e9, description="a node that was not heard of for so long is unhealthy: its calls go to others"),
    ] = 10.0
    ledger_bytes: Annotated[
        Bytes, Meta(description="size of the call ledger, about; beyond it the oldest calls are forgotten")
    ] = 1 << 28
    ledger_age_s: Annotated[Seconds, Meta(description="older calls of lives before are forgotten")] = 86400.0
    in_flight: Annotated[Positive, Meta(description="messages of one lane under way at a time")] = 1024
    span: Annotated[Positive, Meta(description="how many messages a lane reads above the first undecided one")] = 8192
    window_bytes: Annotated[Bytes, Meta(description="how many bytes of one input a lane holds, about")] = 1 << 25
    drain_s: Annotated[Seconds, Meta(description="how long a graceful stop waits for the calls in flight")] = 10.0
    metrics: Annotated[
        str, Meta(description="address of /metrics, /healthz and /readyz, HOST:PORT, or PORT on 127.0.0.1; empty: none")
    ] = ""
    traces: Annotated[
        str, Meta(description="OpenTelemetry collector that takes OTLP over HTTP, http://127.0.0.1:4318; empty: none")
    ] = ""
    log_format: Annotated[
        Literal["text", "json"], Meta(description="the log on stderr: text for people, or json, an object a line")
    ] = "text"

    @property
    def state_dir(self) -> Path:
        """The state folder of this cell."""
        return Path(self.state or Path(self.home) / "state")

    @property
    def lake_dir(self) -> Path:
        """The folder of the lake."""
        return Path(self.lake or Path(self.home) / "lake")

    @property
    def blobs_url(self) -> str:
        """The folder, or the URL, of the blob store."""
        return self.blobs or str(Path(self.home) / "blobs")

    @property
    def key_path(self) -> Path:
        """The file with the cluster's key."""
        return Path(self.key_file or Path(self.home) / "cluster.key")

    @property
    def broker_dir(self) -> Path:
        """The folder of the embedded broker."""
        return Path(self.home) / "broker"

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """`metrics`, taken apart: host and port; None where it is empty.

        Raises:
            RefusedError: it is something else.
        """
        return address_of(f"{PREFIX}METRICS", self.metrics) if self.metrics else None

    @property
    def cell_share(self) -> tuple[int, int]:
        """`cell`, taken apart: which one this is, from 1 on, and of how many; the only one where it is empty.

        Raises:
            RefusedError: it is something else.
        """
        if not self.cell:
            return 1, 1
        share, _, shares = self.cell.partition("/")
        if not (_PLACE.fullmatch(self.cell) and 1 <= int(share) <= int(shares)):
            raise RefusedError(f"{PREFIX}CELL={self.cell!r}: expected i/n, such as 2/3 for the second of three cells")
        return int(share), int(shares)

    @property
    def traces_url(self) -> str:
        """`traces`, looked at; empty where there are to be none.

        Raises:
            RefusedError: it is something else.
        """
        if self.traces and not _is_http(self.traces):
            raise RefusedError(f"{PREFIX}TRACES: expected http:// or https:// and a host, as in http://127.0.0.1:4318")
        return self.traces

    def budget(self, name: str) -> Allowance:
        """Read `task_budget`, `root_budget` or `day_budget`.

        Raises:
            RefusedError: it is no budget; says what is wrong with it.
        """
        text: str = getattr(self, name)
        parts = [part.partition("=") for part in filter(None, (p.strip() for p in text.split(";")))]
        try:
            return msgspec.convert({key.strip(): value.strip() for key, _, value in parts}, Allowance, strict=False)
        except msgspec.ValidationError as error:
            place, problem = place_and_problem(error)
            told = about_fields(problem.replace(" | null", ""), Allowance.__struct_fields__)
            raise RefusedError(
                f"{PREFIX}{name.upper()}={text!r}: {f'{place}: ' if place else ''}{told}; expected "
                "calls=N;tokens=N;cost=X, each of which may be left out"
            ) from None

    @property
    def kafka_properties(self) -> dict[str, str]:
        """`kafka_config`, taken apart; a file is read each time.

        Raises:
            RefusedError: a part of it has no `=`, or the file cannot be read; names file and line.
        """
        variable = f"{PREFIX}KAFKA_CONFIG"
        if not self.kafka_config.startswith("@"):
            cure = "; a value with a semicolon in it needs a file (@FILE)"
            parts = enumerate(self.kafka_config.split(";"), 1)
            return dict(_property(part, f"{variable}, part {n}", cure) for n, part in parts if part.strip())
        path = Path(self.kafka_config.removeprefix("@"))
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:  # of text that is none, or a name that no file has
            why = (error.strerror if isinstance(error, OSError) else None) or error
            raise RefusedError(f"{variable}: {path} cannot be read: {why}") from None
        told = [(n, line.strip()) for n, line in enumerate(lines, 1)]
        return dict(_property(line, f"{path}:{n}") for n, line in told if line and line[0] not in "#!")

    def __repr__(self) -> str:
        """Leave out what may hold a password."""
        shown = ", ".join(f"{f}={getattr(self, f)!r}" for f in self.__struct_fields__ if f not in _SECRET)
        return f"Settings({shown})"


def address_of(setting: str, text: str) -> tuple[str, int]:
    """Take an address apart, `HOST:PORT`, or `PORT` on 127.0.0.1: host and port.

    Args:
        setting: what gives it, for the message.
        text: the address.

    Raises:
        RefusedError: it is something else.
    """
    host, _, port = text.rpartition(":")
    if not (_PORT.fullmatch(port) and int(port) < 1 << 16):
        raise RefusedError(f"{setting}={text!r}: expected PORT or HOST:PORT, such as 0.0.0.0:9464")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _is_http(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _property(text: str, place: str, cure: str = "") -> tuple[str, str]:
    """Take `key=value` apart. What is wrong is told without it: it may be half of a password."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise RefusedError(f"{place}: expected key=value, and there is no `=` behind a key{cure}")
    return key.strip(), value.strip()


_PLACE = re.compile(r"\d{1,6}/\d{1,6}", re.ASCII)
_PORT = re.compile(r"\d{1,5}", re.ASCII)
_ALSO_FILES = frozenset({f"{PREFIX}NODES", f"{PREFIX}BRANCHING"})
_SECRET = frozenset({"kafka_config", "blobs", "traces"})
_KNOWN = frozenset(Settings.__struct_fields__)
_FOR_TESTS = (f"{PREFIX}TEST_", f"{PREFIX}BENCH_")


def read_settings(flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Gather the settings: flags before environment variables before defaults.

    Args:
        flags: field name to value; None values count as not given.
        environment: os.environ by default.

    Raises:
        RefusedError: a value is not what its setting takes, or a variable with our prefix is no setting.
    """
    environment = os.environ if environment is None else environment
    given: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for field in Settings.__struct_fields__:
        variable = PREFIX + field.upper()
        if variable in environment:
            given[field], origin[field] = environment[variable], variable
        if flags and flags.get(field) is not None:
            given[field], origin[field] = flags[field], "--" + field.replace("_", "-")
    unknown = [v for v in environment if v.startswith(PREFIX) and v.removeprefix(PREFIX).lower() not in _KNOWN]
    if unknown := [v for v in unknown if not v.startswith(_FOR_TESTS)]:
        raise RefusedError(f"{unknown[0][:100]} is no setting of Aureon; `aureon run --help` lists them")
    for field, value in given.items():
        if isinstance(value, str) and not is_text(value):
            raise RefusedError(f"{origin[field]}: it is no UTF-8")
    try:
        return msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        name = str(error).partition(" - at `$.")[2].rstrip("`")
        shown = "" if name in _SECRET else f"={given[name]!r}"
        raise RefusedError(f"{origin[name]}{shown}: expected {_wanted(name)}") from None


def is_text(given: str) -> bool:
    """Tell whether an argument or a variable is UTF-8; Python has half of surrogate pairs for bytes that are none."""
    return given.isascii() or given.encode(errors="replace").decode() == given


def _wanted(field: str) -> str:
    """Say what a setting takes."""
    hints = get_type_hints(Settings, include_extras=True)
    kind = msgspec.inspect.type_info(hints[field])
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    if isinstance(kind, msgspec.inspect.LiteralType):
        return " or ".join(map(str, kind.values))
    if not isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        return "a text that is not empty"
    least = f"above {kind.gt:,g}" if kind.gt is not None else f"from {kind.ge:,.13g}"
    most = f" to {kind.le:,.13g}" if kind.le is not None else " on"
    return f"a {'whole ' if isinstance(kind, msgspec.inspect.IntType) else ''}number {least}{most}"


def import_object(path: str, place: str) -> Any:
    """Import what is named as `module:attribute`; the module is looked for in the current folder, too.

    Args:
        path: the name.
        place: what names it, for messages.

    Raises:
        RefusedError: there is no such thing, or the module fails; says what named it, and where it fails.
    """
    told = f"{place}={path!r}"
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        file = f", or a file {place.removeprefix(PREFIX).lower()}.toml" if place in _ALSO_FILES else ""
        raise RefusedError(f"{told}: expected module:attribute{file}")
    if str(Path.cwd()) not in sys.path:  # where what users write most often is
        sys.path.append(str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise RefusedError(f"{told}: {error}") from error
    except Exception as error:  # a user's module; whatever is wrong with it is told with its place
        raise RefusedError(f"{told}: {failure_of(error)}") from error
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise RefusedError(f"{told}: {error}") from error
    return found


def make_object(make: Callable[..., Any], place: str, method: str, *arguments: Any, **options: Any) -> Any:
    """Have what a user named make an object.

    Args:
        make: what was named.
        place: where, for messages.
        method: what the object has, besides a `name`.
        arguments: what `make` is called with.
        options: the same, by name.

    Raises:
        RefusedError: it fails, or what it makes is something else.
    """
    try:
        made = make(*arguments, **options)
    except RefusedError:
        raise
    except Exception as error:  # a user's callable; whatever is wrong is told with its place
        raise RefusedError(f"{place} cannot be made: {failure_of(error)}") from error
    if not (isinstance(getattr(made, "name", None), str) and callable(getattr(made, method, None))):
        raise RefusedError(f"{place} gave {type(made).__name__}, which has no `name` or no `{method}`")
    return made
