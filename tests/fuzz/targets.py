"""The targets: a name, and what is done with the bytes.

Each one holds its decoder to the same rule: a value that can be worked with, or the one error that the decoder
documents, whose message is for people. Anything else, another exception or a wrong acceptance, ends the target.
"""

import asyncio
import contextlib
import functools
import io
import math
import shlex
import socket
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

import one_lake.seals
from connectors.blobs import BlobStore
from connectors.cancels import Cancels
from connectors.directives import AFFINITY_KEY, QUARANTINE_KEY
from connectors.heartbeats import read_state
from connectors.ledger import CallLedger
from connectors.nodes import NodeError
from connectors.nodes.final_answer import final_answer
from connectors.nodes.nodes_file import NodeMaker, parse_nodes
from connectors.nodes.openai import Key, OpenAINode, _read_completion, _read_models, _Request, retry_after
from connectors.nodes.quantities import read as read_quantity
from connectors.nodes.signals import signals_of
from connectors.nodes.solvers.reading import read as read_problem
from connectors.owner_index import OwnerIndex
from connectors.sandbox import _last_report
from connectors.topics import RETRY, TASKS
from flows.accepted import AcceptedRecords
from flows.affinity import Affinities
from flows.branched import BranchedContents
from flows.branching import ConvergedRecord, DeclaredAffinities
from flows.cluster import belongs_to, cluster_key
from flows.commands.arguments import make_parser, settings_of
from flows.commands.submit import read_lines, with_topic
from flows.comparing.equivalence import canonical, group
from flows.cut import decode_cut, encode_cut, joined, pieces_of
from flows.evaluation import message_of, read_line
from flows.items import Decided, Rejected, Work
from flows.lane import Sealer
from flows.orders import Orders
from flows.outlook import Outlooks
from flows.overflow import Overflow
from flows.policies import make_policy
from flows.prompts import Prompts
from flows.replays.report import read_truths
from flows.root import Root
from flows.settings import Settings, read_settings
from flows.steps.derive import derive
from flows.steps.intake import Reading, classify
from flows.steps.route import read_strategy
from flows.supervision import Supervisor, built_in_supervisor
from flows.supervision.case import Case
from flows.supervision.file import parse_supervision
from flows.supervision.health import TopicRecord
from one_lake import tables
from one_lake.as_of import _read as read_moment
from one_lake.criteria import read_criteria
from one_lake.encode import encode_rows, record_batch
from one_lake.gate import configurations_of
from one_lake.keys import public_keys, signing_key
from one_lake.runs import read_run, run_folder
from schemas.blob import BlobReference, read_reference
from schemas.decision import RoundResult, read_decision
from schemas.errors import UNREADABLE, BadRecordError, LogMismatchError, RefusedError
from schemas.head import Head
from schemas.node import Answer, NodeCapabilities
from schemas.task import AnswerKind, PayloadView, encode, read_payload, read_task
from tests.connectors.asked import a_call

SECRET: Final = "sk-a-key-that-no-message-may-hold"  # noqa: S105 - it opens nothing
CALL: Final = a_call()
REQUEST: Final = _Request(model="m", messages=(), max_tokens=1)


@functools.cache
def folder() -> Path:
    """A folder for what has to be a file, in memory where there is such a place."""
    shared = Path("/dev/shm")  # noqa: S108 - a folder with a name of its own is made there
    made = tempfile.TemporaryDirectory(prefix="aureon-fuzz-", dir=shared if shared.is_dir() else None)
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[object] = []


@contextlib.contextmanager
def told(*errors: type[Exception], naming: str = "", known: str = "") -> Iterator[None]:
    """Let a decoder refuse: with one of its errors, in a text of bounded length, without a secret but a known one."""
    try:
        yield
    except errors as error:
        text = str(error)
        assert text.strip(), "an error without a word"
        assert len(text) < 20_000, f"an error of {len(text)} characters"
        assert naming in text
        assert SECRET not in text or SECRET in known, "a secret in a message"


# -- tasks ---------------------------------------------------------------------------------------------------------


@functools.cache
def _reading() -> Reading:
    store = BlobStore(str(folder() / "blobs"))
    store.create()
    store.put(b'{"prompt":"1+1"}')
    return Reading(0, 4, Sealer(bytes(32)), 1 << 20, RETRY, 5.0, Overflow(store, 1 << 16))


def task(data: bytes) -> None:
    """A message on an input Kafka topic; a reference to a blob; and what a producer may claim of causes."""
    message = classify(_reading(), TASKS, 7, data, 1.0)
    assert message.cause is None, "a cause that nobody sealed"
    if isinstance(message.body, Rejected):
        assert message.verdict == "bad_input"
        assert message.body.error.startswith("tasks.global[0]@7: ")
        assert len(message.body.error) < 20_000
    else:
        assert isinstance(message.body, Work)
        found = message.body.task
        assert found.topic
        assert found.logical_id
        assert found.logical_id.encode()
        assert found.generation == found.round_index == found.attempt == 0
        again, _ = read_task(encode(found))
        assert again == found, "another task when it is read back"
    with told(BadRecordError):
        assert isinstance(read_reference(data), BlobReference | None)


# -- files of settings ---------------------------------------------------------------------------------------------


def nodes_file(data: bytes) -> None:
    """`nodes.toml`, with its prompts, and the nodes that are made of it."""
    with told(RefusedError):
        found = parse_nodes(data)
        prompts = Prompts(found.prompts)
        maker = NodeMaker(_imports_nothing, {"A_KEY": SECRET})
        for entry in found.node:
            assert entry.id.isprintable()
            assert math.isfinite(entry.timeout_s)
            assert all(0 <= t <= 10 for t in entry.temperatures)
            if entry.kind != "llm":
                encode(maker.make(entry).capabilities)
            if entry.kind == "openai":
                OpenAINode(entry.capabilities(), entry.url, options=entry.options)._written(REQUEST)
        for topic in (*found.prompts, "math"):
            encode(prompts.messages(topic, PayloadView(prompt="50 % of $x?"), "1 %", "it is $wrong %s"))


def _imports_nothing(path: str, place: str) -> Any:
    raise RefusedError(f"{place}={path!r}: nothing is imported here")


RECORD: Final = ConvergedRecord(
    topic="physics",
    logical_id="a",
    question="50 % of $x?",
    answer="a" * 200 + "1",
    answer_kind=AnswerKind.TEXT,
    confidence=0.95,
    evidence="verifier",
    depth=0,
)


def branching_file(data: bytes) -> None:
    """`branching.toml`, and what it makes of a record."""
    with told(RefusedError):
        planner = DeclaredAffinities(data, "branching.toml")
        for topic in planner._rules:
            for proposal in planner.propose(msgspec.structs.replace(RECORD, topic=topic)):
                assert math.isfinite(proposal.score)
                read_payload(bytes(proposal.payload))


def supervision_file(data: bytes) -> None:
    """`supervision.toml`, and what its policies make of an answer."""
    if b":" in data:  # `module:callable`, and whatever that does
        return
    with told(RefusedError):
        supervisor = parse_supervision(data)
        for kind in AnswerKind:
            _examined(supervisor.examine, "a" * 500 + "1 2 3!", kind)
        assert len(supervisor.version) == 71


def gate_file(data: bytes) -> None:
    """A suite of Great Expectations, as far as the cell itself reads it."""
    path = folder() / "suite.json"
    path.write_bytes(data)
    with told(RefusedError, naming="suite.json"):
        configurations_of(str(path))


# -- settings and arguments ----------------------------------------------------------------------------------------


def settings(data: bytes) -> None:
    """Environment variables, one `NAME=value` a line, and all that settings are taken apart into."""
    lines = data.decode(errors="replace").replace("\0", "").splitlines()
    environment = {f"AUREON_{name.strip()}": value for name, _, value in (line.partition("=") for line in lines)}
    elsewhere = str({n: v for n, v in environment.items() if n != "AUREON_KAFKA_CONFIG"})
    with told(RefusedError, known=elsewhere):
        found = read_settings({}, environment)
        assert SECRET not in repr(found) or SECRET in elsewhere
        for look in _LOOKS:
            with told(RefusedError, known=elsewhere):
                look(found)


def _allowances(found: Settings) -> None:
    for name in ("task_budget", "root_budget", "day_budget"):
        allowance = found.budget(name)
        assert all(v is None or (v >= 0 and math.isfinite(v)) for v in msgspec.structs.astuple(allowance))


def _policy(found: Settings) -> None:
    if ":" not in found.policy:
        policy = make_policy(found)
        assert "nan" not in policy.name
        assert "inf" not in policy.name


_LOOKS: tuple[Callable[[Settings], object], ...] = (
    lambda s: s.cell_share,
    lambda s: s.metrics_address,
    lambda s: s.traces_url,
    lambda s: s.kafka_properties if not s.kafka_config.startswith("@") else None,
    lambda s: read_strategy(s.routing, s.cascade_first, s.cascade_agree),
    lambda s: read_moment(s.group),
    lambda s: read_criteria(s.group),
    lambda s: run_folder(s.lake_dir, s.group),
    _allowances,
    _policy,
)


@functools.cache
def _parser() -> Any:
    return make_parser()


def command_line(data: bytes) -> None:
    """Arguments of `aureon`, as a shell would part them, and not longer than Linux lets one be."""
    try:
        arguments = shlex.split(data[:131_072].decode(errors="surrogateescape"))
    except ValueError:
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), told(RefusedError):
            settings_of(_parser().parse_args(arguments), {})
    except SystemExit as ended:
        code = ended.code
        assert code in (0, 2)


# -- answers over HTTP ---------------------------------------------------------------------------------------------


@functools.cache
def _node() -> OpenAINode:
    return OpenAINode(NodeCapabilities(node="n", models=("m",)), "http://127.0.0.1:1/v1", Key(SECRET))


def openai_answer(data: bytes) -> None:
    """The body of a chat completion, and that of a list of models."""
    node = _node()
    with told(NodeError):
        node._decode(_read_models, data)
    with told(NodeError):
        completion = node._decode(_read_completion, data)
        for kind in AnswerKind if completion.choices else ():
            _is_sound(node._answer(msgspec.structs.replace(CALL, answer_kind=kind), (), completion))


def _is_sound(answer: Answer) -> None:
    assert answer.status in ("ok", "abstained")
    assert (answer.status == "ok") == bool(answer.text)
    assert SECRET not in encode(answer).decode()
    assert answer.tokens_in >= 0
    assert answer.tokens_out >= 0
    assert msgspec.json.decode(encode(answer), type=Answer) == answer


def http_header(data: bytes) -> None:
    """Retry-After."""
    text = data.decode("latin-1")
    found = retry_after(text, 1_700_000_000.0)
    assert found is None or (found >= 0 and math.isfinite(found))


class _Replies:
    """Sends bytes to whoever connects, and closes; the client is real."""

    def __init__(self) -> None:
        self.reply = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                connection, _ = self._socket.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(self.reply)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass


@functools.cache
def _served() -> tuple[_Replies, asyncio.Runner]:
    return _Replies(), asyncio.Runner()


def http_reply(data: bytes) -> None:
    """All that a server sends, over a socket: status line, headers, body."""
    replies, runner = _served()
    replies.reply = data

    async def ask() -> None:
        capabilities = NodeCapabilities(node="n", models=("m",))
        node = OpenAINode(capabilities, f"http://127.0.0.1:{replies.port}/v1", Key(SECRET))
        try:
            with told(NodeError):
                async with asyncio.timeout(5):
                    _is_sound(await node.ask(CALL))
        finally:
            await node.close()

    runner.run(ask())


# -- what is on Kafka ----------------------------------------------------------------------------------------------


def decision(data: bytes) -> None:
    """An entry of `tasks.results`, and all that follows from it."""
    with told(BadRecordError, RefusedError):
        found = read_decision(data)
        for memory in (Affinities(), Outlooks(), TopicRecord(), AcceptedRecords(), BranchedContents(), Root()):
            memory.learn(0, [(3, found)])
            memory.encoded()
        derived = derive(Decided(0, [(3, found)], ["0" * 64]), Sealer(bytes(32)), "c")
        for row in derived.rows:
            record_batch(type(row), encode_rows([row]))


def cut(data: bytes) -> None:
    """A cut: that of a snapshot, and the pieces that a group's commit has."""
    with told(LogMismatchError, RefusedError):
        found = decode_cut(data)
        assert decode_cut(encode_cut(found)) == found
        common, pieces = pieces_of(found)
        assert joined(common, pieces) == found or not found.topics
    common, _, piece = data.decode(errors="replace").partition("\n")
    with told(LogMismatchError, RefusedError):
        joined(common, {"tasks.global": piece})


def broadcast(data: bytes) -> None:
    """Directives, heartbeats and heads: what cannot be read is left out by whoever reads, with a word in the log."""
    cancels, orders, affinities = Cancels(), Orders(), Affinities()
    orders.on_affinity(affinities.adopt)
    takers: dict[bytes, Callable[[bytes], object]] = {
        b"cancel/": cancels.take,
        QUARANTINE_KEY: orders.take_quarantine,
        AFFINITY_KEY: orders.take_affinity,
        b"heartbeat": read_state,
        b"head": functools.partial(msgspec.json.decode, type=Head),
    }
    for take in takers.values():
        with contextlib.suppress(*UNREADABLE):
            take(data)
    cancels.settle()
    for topic in list(affinities._topics):
        affinities.votes(topic, 1.0)
        affinities.encoded()


# -- what is in the state folder -----------------------------------------------------------------------------------


def learned(data: bytes) -> None:
    """The files of what was learned; one that is none is left, and the lake teaches instead."""
    for make in (Affinities, Outlooks, TopicRecord, AcceptedRecords, BranchedContents):
        memory: Any = make()
        with told(ValueError, RecursionError):
            memory.restore(data)
            again: Any = make()
            again.restore(memory.encoded())
            for topic in list(memory._topics) if isinstance(memory, Affinities) else ():
                memory.votes(topic, 1.0)
    with told(RefusedError):
        Root(data)


def state_file(data: bytes) -> None:
    """Keys, the name of the cluster, and what a program under test may have reported."""
    home = folder() / "state"
    home.mkdir(exist_ok=True)
    readers: Mapping[str, Callable[[Path], object]] = {
        "cluster.key": cluster_key,
        "signing.key": lambda path: signing_key(path.parent),
        "cluster.json": lambda path: belongs_to(path.parent, "c-1", "state folder", "AUREON_STATE"),
    }
    for name, read in readers.items():
        path = home / name
        path.write_bytes(data)
        with told(RefusedError, naming=str(home)):
            read(path)
        path.unlink()
    said = _last_report(data)
    assert all(isinstance(value, str) for value in said.values())


@functools.cache
def _ledger_schema() -> bytes:
    path = folder() / "made.sqlite"
    asyncio.run(CallLedger(path).close())
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    return path.read_bytes()


def ledger(data: bytes) -> None:
    """The call ledger: a row of it, and the file as a whole; and the index of ids."""
    path = folder() / "calls.sqlite"
    for content, row in ((_ledger_schema(), data), (data, None), (_ledger_schema()[:4096] + data, None)):
        _cleared(path).write_bytes(content)
        if row is not None:
            with contextlib.closing(sqlite3.connect(path)) as db:
                db.execute("INSERT INTO commits (writer, at, size, body) VALUES ('x', 9e12, 1, ?)", (row,))
                db.commit()
        with told(RefusedError):
            asyncio.run(CallLedger(path).close())
    owners = folder() / "lane-0000.sqlite"
    _cleared(owners).write_bytes(data)
    with told(RefusedError, naming="lane-0000.sqlite"):
        OwnerIndex(owners).close()


def _cleared(path: Path) -> Path:
    for left in path.parent.glob(f"{path.name}*"):
        left.unlink()
    return path


# -- what is in the lake -------------------------------------------------------------------------------------------


def lake_file(data: bytes) -> None:
    """An entry of a table's log with its seal, an archive of seals, a public key, a run."""
    lake = folder() / "lake"
    entry = tables.log_entry(lake, "rounds", 0)
    archive = tables.seals_folder(lake, "rounds") / f"{0:020}-{0:020}.jsonl.gz"
    key = tables.keys_folder(lake) / "k.json"
    run = run_folder(lake, "r") / "run.json"
    for path in (entry, archive, key, run):
        path.parent.mkdir(parents=True, exist_ok=True)
    key.write_bytes(data)
    public_keys(lake)
    run.write_bytes(data)
    with told(RefusedError, naming="run.json"):
        read_run(lake, "r")
    for path in (entry, archive):
        path.write_bytes(data)
        with told(BadRecordError):
            for found in one_lake.seals.entries(lake, "rounds"):
                if found.signed is not None:
                    encode(found.signed.seal)
        path.unlink()


# -- files of lines ------------------------------------------------------------------------------------------------


def lines(data: bytes) -> None:
    """What `submit`, `eval` and `replay --truth` read, line by line."""
    for number, line in read_lines(io.BytesIO(data), 1 << 16):
        document = line if isinstance(line, bytes) else b""
        with told(BadRecordError):
            read_task(with_topic(document, "math"))
        with told(BadRecordError):
            question = read_line(document, number)
            assert question.truth.strip()
            question.is_right(question.truth)
            message_of(question, 1, 1.0)
    path = folder() / "truth.jsonl"
    path.write_bytes(data)
    with told(BadRecordError, naming="truth.jsonl:"):
        read_truths(path)


# -- what models say -----------------------------------------------------------------------------------------------


def answer_text(data: bytes) -> None:
    """The text of an answer: the final answer in it, and what it tells of how sure it may be."""
    text = data.decode(errors="replace")
    for kind in AnswerKind:
        found = final_answer(kind, text)
        assert len(found) <= max(len(text), 1)
        assert all(math.isfinite(value) for value in signals_of(kind, text).values())
        canonical(kind, found)


def comparison(data: bytes) -> None:
    """Answers beside each other, a line each: numbers, expressions, choices, texts."""
    texts = data.decode(errors="replace").split("\n")[:4]
    for kind in AnswerKind:
        groups = group(kind, texts)
        assert len(groups) == len(texts)
        assert groups[0] == 0
        assert all(0 <= g <= max(groups[:i]) + 1 for i, g in enumerate(groups) if i)
    for text in texts:
        quantity = read_quantity(text)
        if quantity is not None:
            assert quantity.value.numerator.bit_length() < 1 << 14
            assert quantity.value.denominator.bit_length() < 1 << 14


def _examined(examine: Callable[[Case], RoundResult], text: str, kind: AnswerKind) -> None:
    answer = Answer(node="n", model="m", text=text)
    result = RoundResult(
        answer=text, score=0.9, confidence=0.9, agreement=1.0, evidence="self", candidates=(answer,), leading=(0,)
    )
    view = PayloadView(prompt="1+1?", answer_kind=kind)
    found = examine(Case(result=result, topic="math", logical_id="a", view=view, answers=(answer,)))
    assert not found.warnings, found.warnings
    encode(found)


@functools.cache
def _supervisor() -> Supervisor:
    return built_in_supervisor()


def supervised(data: bytes) -> None:
    """An answer before the built-in policies."""
    text = data.decode(errors="replace")
    supervisor = _supervisor()
    for each, kind in ((text, AnswerKind.NUMBER), (text * (1 + 20_000 // max(1, len(text))), AnswerKind.TEXT)):
        _examined(supervisor.examine, each, kind)
    supervisor.may_quote("math", text)


def prompt(data: bytes) -> None:
    """A prompt, as the embedded solvers read it."""
    found = read_problem(data.decode(errors="replace"))
    assert found is None or repr(found)


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    each.__name__: each
    for each in (
        task,
        nodes_file,
        branching_file,
        supervision_file,
        gate_file,
        settings,
        command_line,
        openai_answer,
        http_header,
        http_reply,
        decision,
        cut,
        broadcast,
        learned,
        state_file,
        ledger,
        lake_file,
        lines,
        answer_text,
        comparison,
        supervised,
        prompt,
    )
}
