"""The client of OpenAI-compatible servers, over real HTTP, with every fault."""

import asyncio
import pickle
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from email.utils import formatdate
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.nodes import CheckedNode, Failure, NodeError
from connectors.nodes import openai as client
from connectors.nodes.openai import MAX_VERSION, PIECE, Key, OpenAINode, retry_after, seed_of
from schemas.node import Answer, Call, NodeCapabilities, NodeReport
from schemas.task import PromptMessage
from tests.connectors.asked import a_call, arrived
from tests.openai_server import (
    HANG,
    Fault,
    OpenAIServer,
    Question,
    disconnected,
    error,
    garbage,
    half_closed,
    rate_limited,
    slow,
)

T = TypeVar("T")
SECRET = "sk-t0p/secret-0123456789abcdef"  # noqa: S105 - it opens nothing


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """A server that answers 42."""
    with OpenAIServer() as one:
        yield one


def use(url: str, work: Callable[[OpenAINode], Awaitable[T]], *, key: str = "", **differently: Any) -> T:
    """Do something with a node on a loop of its own."""
    own = {name: differently.pop(name) for name in ("temperature", "seed", "options") if name in differently}
    capabilities = NodeCapabilities(node="n", **{"models": ("m",), **differently})

    async def run() -> T:
        node = OpenAINode(capabilities, url, Key(key) if key else None, **own)
        try:
            return await asyncio.wait_for(work(node), 60)
        finally:
            await node.close()

    return asyncio.run(run())


def ask(server: OpenAIServer, question: Call | None = None, **differently: Any) -> Answer:
    """Ask a question, once."""
    return use(server.url, lambda node: node.ask(question or a_call()), **differently)


def failure(server: OpenAIServer, *faults: Fault, key: str = "") -> NodeError:
    """Ask, and give the error."""
    server.faults.extend(faults)
    with pytest.raises(NodeError) as failed:
        ask(server, key=key)
    return failed.value


def completion(message: dict[str, Any], **more: Any) -> Question:
    """The body of a reply."""
    return {"choices": [{"message": message, **more}]}


# -- answers -------------------------------------------------------------------------------------------------------


def test_a_call_is_answered_with_its_tokens_and_its_cost(server: OpenAIServer) -> None:
    """As the server counts them, at the prices that the node declares."""
    server.answer = lambda _question: (
        completion({"content": "42"}) | {"usage": {"prompt_tokens": 1000, "completion_tokens": 200}}
    )
    answer = ask(server, price_in=2.0, price_out=10.0)
    assert answer == Answer(node="n", model="m", text="42", tokens_in=1000, tokens_out=200, cost=0.004)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -5, "completion_tokens": 10**30}])
def test_tokens_that_are_not_counted_or_not_to_be_believed_are_estimated(
    server: OpenAIServer, usage: dict[str, int] | None
) -> None:
    """Four characters each."""
    server.answer = lambda _question: completion({"content": "forty two"}) | {"usage": usage}
    answer = ask(server, a_call(answer_kind="text"))
    assert (answer.tokens_in, answer.tokens_out) == (3, 3)


def test_the_chat_of_the_call_is_sent(server: OpenAIServer) -> None:
    """Or else its prompt; what is not configured is left to the server."""
    chat = (PromptMessage("system", "Be brief."), PromptMessage("user", "6*7? 🙂"))
    ask(server, a_call(messages=chat), max_tokens=77)
    ask(server)
    first, second = (served.body for served in server.served)
    assert first == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "6*7? 🙂"}],
        "max_tokens": 77,
    }
    assert second["messages"] == [{"role": "user", "content": "What is 6*7?"}]


def test_temperature_and_seed_are_those_of_the_round(server: OpenAIServer) -> None:
    """The last temperature repeats; each call has a seed of its own, and the same one when it is asked again."""
    questions = [a_call(round_index=r, attempt=a, sample=s) for r in range(3) for a in range(2) for s in range(2)]

    async def work(node: OpenAINode) -> None:
        for question in questions * 2:
            await node.ask(question)

    use(server.url, work, temperature=(0.0, 0.7), seed=5)
    bodies = [served.body for served in server.served]
    assert [b["temperature"] for b in bodies[:12]] == [0.0] * 4 + [0.7] * 8
    seeds = [b["seed"] for b in bodies]
    assert seeds[:12] == seeds[12:]
    assert len(set(seeds)) == 12


def test_options_are_fields_of_each_request(server: OpenAIServer) -> None:
    """And the newer name of a field stands in place of the older one."""
    ask(server, options={"max_completion_tokens": 9, "top_p": 0.5, "stop": ["\n"]})
    (body,) = [served.body for served in server.served]
    assert {name: body[name] for name in body if name not in ("model", "messages")} == {
        "max_completion_tokens": 9,
        "top_p": 0.5,
        "stop": ["\n"],
    }
    ask(server, options={"top_p": 0.5})
    assert "max_tokens" in server.served[1].body


def test_what_was_thought_to_the_end_is_no_answer(server: OpenAIServer) -> None:
    """The budget of tokens went before there was one."""
    server.answer = lambda _question: "<think>6*7, let me see</think>"
    answer = ask(server, a_call(answer_kind="text"))
    assert (answer.status, answer.text) == ("abstained", "")


def test_a_key_that_is_no_secret_is_a_word_of_an_answer(server: OpenAIServer) -> None:
    """Servers without keys are given `ollama`, or `42`; of a secret one nothing is found, not even as an answer."""
    server.answer = lambda _question: f"Answer: {server.served[-1].headers['Authorization'].removeprefix('Bearer ')}"
    assert ask(server, key="42").text == "42"
    assert SECRET not in repr(ask(server, a_call(answer_kind="choice"), key=SECRET))


@given(st.integers(), st.integers(0, 1000), st.integers(0, 100), st.integers(0, 100))
def test_a_seed_fits_every_server(seed: int, round_index: int, attempt: int, sample: int) -> None:
    """Some keep it in 32 bits, with a sign."""
    assert 0 <= seed_of(seed, round_index, attempt, sample) < 2**31


def test_the_final_answer_is_taken_out_of_the_reasoning(server: OpenAIServer) -> None:
    """The full text is kept beside it, its end if it is long."""
    reasoning = "6*7 is 6 times 7. " * 400 + "\nAnswer: 42"
    server.answer = lambda _question: reasoning
    answer = ask(server)
    assert answer.text == "42"
    assert answer.meta is not None
    assert set(answer.meta) == {"text"}
    assert len(answer.meta["text"]) == client.MAX_TEXT
    assert answer.meta["text"].endswith("Answer: 42")
    assert ask(server, a_call(answer_kind="text")).text == reasoning


@pytest.mark.parametrize(
    "choice, why, text",
    [
        (({"content": "6*7 is"}, {"finish_reason": "length"}), "length", "6*7 is"),
        (({"content": ""}, {"finish_reason": "content_filter"}), "content_filter", None),
        (({"content": None, "refusal": "I will not."}, {}), "refusal", "I will not."),
        (({"content": None}, {"finish_reason": "tool_calls"}), "no content", None),
        (({"content": " \n"}, {}), "no content", None),
        (({"content": "I don't know."}, {}), "no answer", "I don't know."),
    ],
)
def test_what_is_no_whole_answer_is_an_abstention(
    server: OpenAIServer, choice: tuple[dict[str, Any], dict[str, Any]], why: str, text: str | None
) -> None:
    """It says why, and costs what it costs."""
    server.answer = lambda _question: completion(choice[0], **choice[1]) | {"usage": {"prompt_tokens": 1_000_000}}
    answer = ask(server, price_in=3.0)
    assert (answer.status, answer.text, answer.cost) == ("abstained", "", 3.0)
    assert answer.meta == {"abstained": why} | ({"text": text} if text else {})


def test_nothing_but_the_text_is_taken_over_from_a_model(server: OpenAIServer) -> None:
    """No branches, above all: a server would spend the user's budget."""
    message = {
        "content": [{"type": "thinking", "text": "41"}, {"type": "text", "text": "42"}],
        "meta": {"branches": [1]},
    }
    server.answer = lambda _question: completion(message) | {"meta": {"branches": [1]}, "branches": [1]}
    answer = ask(server)
    assert (answer.text, answer.score, answer.meta) == ("42", None, None)


def test_a_large_question_is_sent(server: OpenAIServer) -> None:
    """Without a warning that it holds up the loop."""
    assert ask(server, a_call(prompt="x" * 900_000)).text == "42"
    assert len(server.served[0].body["messages"][0]["content"]) == 900_000


@pytest.mark.unmeasured
def test_calls_run_at_the_same_time_over_as_many_connections(server: OpenAIServer) -> None:
    """And a check does not wait behind them."""
    server.latency_s = 3.0

    async def work(node: OpenAINode) -> tuple[float, float]:
        started = time.monotonic()
        calls = asyncio.gather(*(node.ask(a_call()) for _ in range(40)))
        await arrived(server, 40)
        await node.check()
        checked = time.monotonic() - started
        await calls
        return checked, time.monotonic() - started

    checked, took = use(server.url, work, max_concurrency=40)
    assert server.most_active == 40
    assert checked < 3.0
    assert took < 6.0


# -- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault, sort, wait_s",
    [
        (rate_limited("0.2"), "rate_limited", 0.2),
        (rate_limited("soon"), "rate_limited", None),
        (error(500), "server_error", None),
        (error(503, headers={"Retry-After": "3"}), "server_error", 3.0),
        (disconnected(), "closed", None),
        (half_closed(), "closed", None),
        (garbage(), "garbage", None),
        (garbage(b""), "garbage", None),
        (garbage(b"\xff\xfe"), "garbage", None),
        (garbage(b"[]"), "garbage", None),
        (garbage(b'{"choices": []}'), "garbage", None),
        (garbage(b'{"choices": [{"message": {"content": 7}}]}'), "garbage", None),
        (garbage(b'{"error": {"message": "upstream"}}'), "garbage", None),
        (garbage(b"[" * 100_000), "garbage", None),
        (error(400), "rejected", None),
        (error(413), "rejected", None),
        (error(401), "denied", None),
        (error(404), "denied", None),
        (error(408), "timeout", None),
        (Fault(status=302, headers={"Location": "http://127.0.0.1:1/"}), "rejected", None),
    ],
)
def test_failures_are_told_apart(server: OpenAIServer, fault: Fault, sort: Failure, wait_s: float | None) -> None:
    """And the next call is answered, by the same node."""
    server.faults.append(fault)

    async def work(node: OpenAINode) -> tuple[NodeError, Answer]:
        with pytest.raises(NodeError) as failed:
            await node.ask(a_call())
        return failed.value, await node.ask(a_call())

    failed, answer = use(server.url, work)
    assert (failed.failure, failed.retry_after_s) == (sort, wait_s)
    assert failed.may_pass is (sort not in ("denied", "rejected"))
    assert str(failed).startswith("n: ")
    assert len(str(failed)) < client.MAX_TOLD + 200
    assert answer.text == "42"


def test_a_body_without_end_is_given_up(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill the memory."""
    monkeypatch.setattr(client, "MAX_BODY", 100_000)
    failed = failure(server, garbage(b" " * 400_000))
    assert failed.failure == "garbage"
    assert "more than 100,000 bytes" in str(failed)


def test_what_a_server_says_of_an_error_is_told(server: OpenAIServer) -> None:
    """However it words it; a long one is cut."""
    assert "HTTP 404: no model 'm'" in str(failure(server, error(404, "no model 'm'")))
    assert "HTTP 400: so not" in str(failure(server, Fault(status=400, body=b'{"detail": "so not"}')))
    assert "HTTP 400: <h1>Bad</h1>" in str(failure(server, Fault(status=400, body=b"<h1>Bad</h1>\n\x1b")))
    assert len(str(failure(server, error(400, "long " * 10_000)))) < 400


def test_a_url_without_its_v1_is_suspected(server: OpenAIServer) -> None:
    """What a server says of an unknown path helps nobody."""

    async def work(node: OpenAINode) -> NodeError:
        with pytest.raises(NodeError) as failed:
            await node.ask(a_call())
        return failed.value

    told = str(use(server.url.removesuffix("/v1"), work))
    assert told == "n: HTTP 404 at /chat/completions, perhaps its url lacks /v1: no such path"


def test_a_slow_answer_is_waited_for_and_a_hanging_one_can_be_cancelled(server: OpenAIServer) -> None:
    """How long a call may take is its caller's business."""
    server.faults.extend([slow(0.3), HANG])

    async def work(node: OpenAINode) -> tuple[Answer, Answer]:
        late = await node.ask(a_call())
        hanging = asyncio.create_task(node.ask(a_call()))
        await arrived(server, 2)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        return late, await node.ask(a_call())

    late, after = use(server.url, work, max_concurrency=1)
    assert late.text == after.text == "42"


def test_a_server_that_dies_and_comes_back_is_found_again(server: OpenAIServer) -> None:
    """Calls under way are closed, those in between refused."""
    server.faults.append(HANG)

    async def work(node: OpenAINode) -> list[str]:
        sorts: list[str] = []
        under_way = asyncio.create_task(node.ask(a_call()))
        await arrived(server)
        for before in (server.kill, lambda: None, server.start):
            await asyncio.to_thread(before)
            try:
                sorts.append((await (under_way if not sorts else node.ask(a_call()))).text)
            except NodeError as failed:
                sorts.append(failed.failure)
        return sorts

    assert use(server.url, work) == ["closed", "refused", "42"]


def test_a_server_that_takes_no_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is full, and it looks at none of them."""
    monkeypatch.setattr(client, "CONNECT_S", 0.3)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        queued = [socket.socket() for _ in range(3)]
        for one in queued:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        with pytest.raises(NodeError) as failed:
            use(f"http://127.0.0.1:{port}/v1", lambda node: node.ask(a_call()))
        for one in queued:
            one.close()
    assert failed.value.failure == "timeout"
    assert "no connection within 0.3 s" in str(failed.value)


def test_what_speaks_no_http_is_garbage() -> None:
    """Another service on that port."""

    async def run() -> NodeError:
        def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail ready\r\n\r\n")
            writer.close()

        other = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        node = OpenAINode(NodeCapabilities(node="n", models=("m",)), f"http://127.0.0.1:{port}/v1")
        with pytest.raises(NodeError) as failed:
            await node.ask(a_call())
        await node.close()
        other.close()
        return failed.value

    failed = asyncio.run(run())
    assert failed.failure == "garbage"
    assert "no HTTP" in str(failed)


def test_a_closed_node_fails_what_is_under_way_and_what_comes(server: OpenAIServer) -> None:
    """A node that was taken out of the file is closed while it has calls."""
    server.faults.append(HANG)

    async def work(node: OpenAINode) -> list[Failure]:
        under_way = asyncio.create_task(node.ask(a_call()))
        await arrived(server)
        await node.close()
        failures = []
        for one in (under_way, node.ask(a_call())):
            with pytest.raises(NodeError) as failed:
                await one
            failures.append(failed.value.failure)
        return failures

    assert use(server.url, work) == ["closed", "refused"]


@given(st.text() | st.floats().map(str) | st.integers().map(str))
def test_any_retry_after_is_read(text: str) -> None:
    """It is a time to wait, or nothing."""
    wait_s = retry_after(text, 0.0)
    assert wait_s is None or 0 <= wait_s < float("inf")


def test_retry_after_is_seconds_or_a_date() -> None:
    """A date that is over is no time to wait."""
    now = 1_700_000_000.0
    assert retry_after("120", now) == 120
    assert retry_after(formatdate(now + 30, usegmt=True), now) == 30
    assert retry_after(formatdate(now - 30, usegmt=True), now) == 0
    assert retry_after(None, now) is None


# -- the key -------------------------------------------------------------------------------------------------------


def test_the_key_is_in_the_request_and_nowhere_else(server: OpenAIServer) -> None:
    """Not in an error either, when the server sends it back, whole, in part or escaped; nor in its traceback."""
    messages = [SECRET, f"no such key: {SECRET[:14]}...", "x" * 590 + SECRET, f"Bearer {SECRET}" * 50]
    faults = [error(401, message) for message in messages]
    faults += [garbage(SECRET.encode()), garbage(SECRET.replace("/", "\\/").encode()), error(500, SECRET[3:])]
    for fault in faults:
        failed = failure(server, fault, key=SECRET)
        told = "".join(traceback.format_exception(failed, chain=True)) + repr(failed.__context__)
        pieces = [SECRET[i : i + 8] for i in range(len(SECRET) - 7)]
        assert not [piece for piece in pieces if piece in told]
    assert {served.headers["Authorization"] for served in server.served} == {f"Bearer {SECRET}"}


def test_the_key_is_not_in_what_the_server_says_of_its_model(server: OpenAIServer) -> None:
    """As in no answer: it goes into the lake."""
    said = {"model": f"{SECRET} " * 2, "system_fingerprint": "x" * (MAX_VERSION - 10) + SECRET}
    server.answer = lambda _question: completion({"content": "42"}) | said
    version = ask(server, key=SECRET).version
    assert version.startswith("[key] [key]")
    assert SECRET[:4] not in version


def test_the_key_hides() -> None:
    """From prints and from pickles."""
    key = Key(SECRET)
    assert SECRET not in f"{key!r} {key} {[key]}"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)


def test_a_key_that_is_shorter_than_a_piece_is_not_cut_out() -> None:
    """It is no secret, and may be part of any word."""
    assert Key("EMPTY").cut("EMPTY is what it is") == "EMPTY is what it is"


@given(st.text(min_size=PIECE), st.text(), st.text())
def test_the_key_is_cut_out_of_any_text(secret: str, before: str, after: str) -> None:
    """Whatever stands around it."""
    kept = Key(secret).cut(before + secret + after)
    assert secret not in kept.replace("[key]", "\0") or "[key]" in secret or "\0" in secret
    assert "[key]" in kept


# -- how it is -----------------------------------------------------------------------------------------------------


def test_a_check_tells_the_models(server: OpenAIServer) -> None:
    """Of its own, and which of them are loaded, where the server says so: llama.cpp's router, LM Studio, all others."""
    server.models = [
        "plain",
        {"id": "router-loaded", "status": {"value": "loaded"}},
        {"id": "router-not", "status": {"value": "unloaded"}},
        {"id": "studio-loaded", "state": "loaded"},
        {"id": "studio-not", "state": "not-loaded"},
        {"id": "other", "status": "ready", "state": None},
    ]

    async def work(node: OpenAINode) -> NodeReport:
        assert isinstance(node, CheckedNode)
        return await node.check()

    known = ("plain", "router-loaded", "router-not", "studio-loaded", "studio-not", "missing")
    report = use(server.url, work, models=known)
    assert report.models == known[:-1]
    assert report.loaded == ("plain", "router-loaded", "studio-loaded")


@pytest.mark.parametrize(
    "fault, sort",
    [(error(503), "server_error"), (garbage(b"{}"), "garbage"), (HANG, "timeout"), (error(401), "denied")],
)
def test_a_check_that_fails_says_why(
    server: OpenAIServer, fault: Fault, sort: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a short time only."""
    if fault is HANG:
        monkeypatch.setattr(client, "CHECK_S", 0.3)
    server.models_fault = fault
    with pytest.raises(NodeError) as failed:
        use(server.url, lambda node: node.check())
    assert failed.value.failure == sort
