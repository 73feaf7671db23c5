"""A node behind HTTP that speaks OpenAI's protocol: vLLM, llama.cpp, Ollama, LM Studio, and the paid services.

Unit of parallelism: the call; one session a node, of as many connections as the node takes calls. Guarantee: each try
ends with an answer, an abstention, or a `NodeError` that says of which sort the failure is; a server that says nothing
at all is for the caller to time. Nothing of what a server sends is trusted: bodies are bounded and read as typed JSON,
and of an answer only its text and its token counts are taken over. The key is in the requests and nowhere else, though
a server say it back.
"""

import asyncio
import io
import math
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from connectors.nodes import Failure, NodeError
from connectors.nodes.final_answer import final_answer
from connectors.nodes.signals import signals_of
from schemas.errors import UNREADABLE
from schemas.node import Answer, Call, NodeCapabilities, NodeReport
from schemas.task import PromptMessage

T = TypeVar("T")

CONNECT_S = 5.0
"""For a connection; a server that does not take one by then is away, however long its answers may take."""
CHECK_S = 5.0
"""For the list of models."""
KEEP_S = 4.0
"""How long an idle connection is kept: uvicorn, on which many of these servers run, closes its own after 5 s, and a
request that crosses with that is lost."""
MAX_BODY = 8 << 20
MAX_ERROR_BODY = 64 << 10
MAX_TOLD = 300
"""Characters of a server's own words in an error."""
MAX_VERSION = 200
"""Characters of a model's version, and of its fingerprint."""
MAX_TEXT = 4_000
"""Characters of the full text that are kept beside the final answer."""
MAX_TOKENS = 1_000_000_000
"""A count beyond it is not believed."""
LARGE = 1 << 20
"""Bytes of a request that aiohttp wants to read piece by piece."""
PIECE = 8
"""So many characters of a key are as secret as all of it; servers like to quote the beginning of one."""
SECRET_FROM = 16
"""Characters: a shorter key (`EMPTY`, `ollama`) is there because some client wants one."""


class Key:
    """The secret that a server asks for. Nothing that prints or pickles objects gets at it."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "Key(hidden)"

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled")

    @property
    def header(self) -> str:
        """What the request says."""
        return f"Bearer {self._secret}"

    def hide(self, text: str) -> str:
        """Take the key out of an answer; one that is too short to be a secret may be a word of it."""
        return text.replace(self._secret, "[key]") if len(self._secret) >= SECRET_FROM else text

    def cut(self, text: str) -> str:
        """Take the key out of an error, and all pieces of it that are as long as `PIECE`."""
        if len(self._secret) < PIECE:
            return text
        text = text.replace(self._secret, "[key]")
        pieces = {self._secret[i : i + PIECE] for i in range(len(self._secret) - PIECE + 1)}
        kept, place = [], 0
        while place < len(text):
            end = place
            while text[end : end + PIECE] in pieces:
                end += 1
            if end > place:
                kept.append("[key]")
                place = end + PIECE - 1
            else:
                kept.append(text[place])
                place += 1
        return "".join(kept)


# -- what goes over the wire ---------------------------------------------------------------------------------------


class _Request(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    model: str
    messages: Sequence[PromptMessage]
    max_tokens: int
    temperature: float | None = None
    seed: int | None = None


class _Part(Struct, frozen=True):
    type: str = ""
    text: str = ""


class _Message(Struct, frozen=True):
    content: str | list[_Part] | None = None
    refusal: str | None = None


class _Choice(Struct, frozen=True):
    message: _Message
    finish_reason: str | None = None


class _Usage(Struct, frozen=True, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(Struct, frozen=True):
    choices: list[_Choice]
    usage: _Usage | None = None
    model: Any = None
    """The one that answered, which may be a version of that asked for."""
    system_fingerprint: Any = None
    """Of how the server runs it."""


class _Model(Struct, frozen=True):
    id: str
    status: Any = None
    """llama.cpp's router: an object with a `value`; other servers have other things under this name."""
    state: Any = None
    """LM Studio: `loaded` or `not-loaded`."""

    @property
    def loaded(self) -> bool:
        """Whether it answers without being loaded first; a server that does not say has all its models loaded."""
        if isinstance(self.status, dict) and isinstance(self.status.get("value"), str):
            return bool(self.status["value"] == "loaded")
        return self.state == "loaded" if isinstance(self.state, str) else True


class _Models(Struct, frozen=True):
    data: list[_Model]


_encode = msgspec.json.Encoder().encode
_read_completion = msgspec.json.Decoder(_Completion)
_read_models = msgspec.json.Decoder(_Models)


# -- pure ----------------------------------------------------------------------------------------------------------


def seed_of(seed: int, round_index: int, attempt: int, sample: int) -> int:
    """Give the seed of one call, 0 to 2^31 - 1: the same for the same call, unlike those of the calls beside it."""
    return zlib.crc32(f"{seed}/{round_index}/{attempt}/{sample}".encode()) & 0x7FFF_FFFF


def retry_after(header: str | None, now: float) -> float | None:
    """Read a Retry-After header, seconds or an HTTP date, as seconds from now on; None where it says nothing.

    Args:
        header: its text.
        now: seconds since the epoch.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _failure_of(status: int) -> Failure:
    if status == 429:
        return "rate_limited"
    if status == 408:
        return "timeout"
    if 401 <= status <= 404:
        return "denied"
    return "server_error" if status >= 500 else "rejected"


def _message_of(body: bytes) -> str:
    """What a server says of an error: its message where it is worded as OpenAI does, or else its body."""
    text = body.decode(errors="replace")
    try:
        document = msgspec.json.decode(body)
    except UNREADABLE:
        return text
    found = document
    for name in ("error", "message"):
        if isinstance(found, dict):
            found = found.get(name, found.get("detail"))
    return found if isinstance(found, str) else text


# -- the node ------------------------------------------------------------------------------------------------------


class OpenAINode:
    """One endpoint with its models.

    Args:
        capabilities: what it declares.
        url: the base URL, with its `/v1`.
        key: what the server asks for, if anything.
        temperature: one a round, the last for all that follow; none leaves it to the server.
        seed: from which each call has its own; None leaves it to the server.
        options: more fields of each request, as the server knows them.
    """

    def __init__(
        self,
        capabilities: NodeCapabilities,
        url: str,
        key: Key | None = None,
        *,
        temperature: Sequence[float] = (),
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.capabilities = capabilities
        self._options = dict(options or {})
        self._chat = URL(f"{url.rstrip('/')}/chat/completions")
        self._models = URL(f"{url.rstrip('/')}/models")
        self._key = key
        self._temperature = tuple(temperature)
        self._seed = seed
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def ask(self, call: Call) -> Answer:
        """Answer a call; what was cut short or refused is an abstention.

        Raises:
            NodeError: there is no answer this time; its `failure` says why.
        """
        messages = call.messages or (PromptMessage("user", call.prompt),)
        temperature, seed = self._temperature, self._seed
        request = _Request(
            model=call.model,
            messages=messages,
            max_tokens=self.capabilities.max_tokens,
            temperature=temperature[min(call.round_index, len(temperature) - 1)] if temperature else None,
            seed=None if seed is None else seed_of(seed, call.round_index, call.attempt, call.sample),
        )
        body = await self._fetch("POST", self._chat, self._written(request))
        completion = self._decode(_read_completion, body)
        if not completion.choices:
            raise self._error("garbage", "an answer without choices")
        return self._answer(call, messages, completion)

    def _written(self, request: _Request) -> bytes:
        if not self._options:
            return _encode(request)
        fields = msgspec.to_builtins(request) | self._options
        if "max_completion_tokens" in fields:  # its newer name, beside which some servers refuse the older one
            del fields["max_tokens"]
        return _encode(fields)

    async def check(self) -> NodeReport:
        """Ask which of its models there are; what else a server lists is nobody's business.

        Raises:
            NodeError: no answer within `CHECK_S`, or one that is none.
        """
        try:
            async with asyncio.timeout(CHECK_S):
                body = await self._fetch("GET", self._models, None)
        except TimeoutError:
            body = None
        if body is None:
            raise self._error("timeout", f"no list of models within {CHECK_S:g} s")
        listed = {m.id: m.loaded for m in self._decode(_read_models, body).data}
        known = [m for m in self.capabilities.models if m in listed]
        return NodeReport(models=tuple(known), loaded=tuple([m for m in known if listed[m]]))

    async def close(self) -> None:
        """Close the connections; calls under way fail."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # -- one request -----------------------------------------------------------------------------------------------

    def _connected(self) -> aiohttp.ClientSession:
        """The session, made on the loop that asks first."""
        if self._closed:
            raise self._error("refused", "the node was closed")
        if self._session is None:
            # one connection more than calls: a check does not wait behind them
            connector = aiohttp.TCPConnector(limit=self.capabilities.max_concurrency + 1, keepalive_timeout=KEEP_S)
            headers = {"Content-Type": "application/json", "User-Agent": "aureon", "Accept-Encoding": "identity"}
            if self._key is not None:
                headers["Authorization"] = self._key.header
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                # a timer a call costs as much as the rest of it; whoever asks times the call as a whole
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            )
        return self._session

    async def _fetch(self, method: str, url: URL, data: bytes | None) -> bytes:
        """Send one request, and give the body of its reply.

        Raises:
            NodeError: there is none, or its status is not 200.
        """
        session = self._connected()
        body = io.BytesIO(data) if data is not None and len(data) > LARGE else data
        try:
            # a redirect is not followed: it would take the question to a server that nobody named
            async with session.request(method, url, data=body, allow_redirects=False) as reply:
                if reply.status == 200:
                    read = await _read(reply, MAX_BODY)
                    if read is not None:
                        return read
                    failure = self._error("garbage", f"a body of more than {MAX_BODY:,} bytes")
                    reply.close()
                else:
                    failure = await self._refusal(reply)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            failure = self._told(error)
        # outside of `except`: what aiohttp raises holds the request with its key, and would come along as the context
        raise failure

    async def _refusal(self, reply: aiohttp.ClientResponse) -> NodeError:
        body = await _read(reply, MAX_ERROR_BODY)
        if body is None:
            reply.close()
        failure = _failure_of(reply.status)
        wait_s = retry_after(reply.headers.get("Retry-After"), time.time()) if failure != "rejected" else None
        what = f"HTTP {reply.status}"
        if reply.status == 404 and "/v1" not in reply.url.path:
            what += f" at {reply.url.path}, perhaps its url lacks /v1"
        return self._error(failure, what, _message_of(body or b""), wait_s)

    def _told(self, error: Exception) -> NodeError:
        """Say of which sort an error of the connection is."""
        failure: Failure = "failed"
        if isinstance(error, aiohttp.ServerTimeoutError):
            return self._error("timeout", f"no connection within {CONNECT_S:g} s")
        if isinstance(error, aiohttp.ClientConnectorError):
            told = re.sub(r"^Cannot connect to host (\S+) ssl:.*? \[", r"\1 [", str(error))
            return self._error("refused", "no connection", told)
        if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
            failure = "closed"
        elif isinstance(error, aiohttp.ClientResponseError):
            return self._error("garbage", "no HTTP", error.message)
        elif self._closed:
            return self._error("closed", "the node was closed")
        return self._error(failure, type(error).__name__, str(error))

    def _decode(self, decoder: msgspec.json.Decoder[T], body: bytes) -> T:
        try:
            return decoder.decode(body)
        except UNREADABLE as error:
            said = self._error("garbage", f"status 200, but {error}", _message_of(body[:MAX_ERROR_BODY]))
        raise said

    def _error(self, failure: Failure, what: str, said: str = "", wait_s: float | None = None) -> NodeError:
        """Word an error: node, what happened, and what the server says of it, bounded and without the key."""
        if self._key is not None:
            what = self._key.cut(what)
            said = self._key.cut(said[: 2 * MAX_TOLD])
        said = " ".join(said.split())[:MAX_TOLD]
        said = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in said)
        return NodeError(f"{self.capabilities.node}: {what}{': ' if said else ''}{said}", failure, wait_s)

    # -- the answer ------------------------------------------------------------------------------------------------

    def _answer(self, call: Call, messages: Sequence[PromptMessage], completion: _Completion) -> Answer:
        choice = completion.choices[0]
        content = choice.message.content
        text = content if isinstance(content, str) else "".join(p.text for p in content or () if p.type == "text")
        refusal = choice.message.refusal or ""
        if self._key is not None:  # a server that says back what it was sent
            text, refusal = self._key.hide(text), self._key.hide(refusal)
        usage = completion.usage or _Usage()
        tokens_in = _count(usage.prompt_tokens)
        if tokens_in is None:
            tokens_in = _estimate(sum(len(m.content) for m in messages))
        tokens_out = _count(usage.completion_tokens)
        if tokens_out is None:
            tokens_out = _estimate(len(text))
        abstained = _abstention(choice, text)
        found = "" if abstained else final_answer(call.answer_kind, text)
        if not found and not abstained:  # it says none, or all of it was thought
            abstained = "no answer" if text.strip() else "no content"
        meta: dict[str, Any] = {"abstained": abstained} if abstained else {}
        full = text.strip() or refusal.strip()
        if full != found and full:
            # the end of it: that is where the answer was
            meta["text"] = full if len(full) <= MAX_TEXT else "…" + full[1 - MAX_TEXT :]
        return Answer(
            node=call.node,
            model=call.model,
            version=self._version(call.model, completion),
            sample=call.sample,
            status="abstained" if abstained else "ok",
            text=found,
            meta=meta or None,
            signals={} if abstained else signals_of(call.answer_kind, text),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            cost=self.capabilities.cost(tokens_in, tokens_out),
        )

    def _version(self, asked: str, completion: _Completion) -> str:
        """What the server says of its model beyond the name that was asked for."""
        said = (completion.model, completion.system_fingerprint)
        told = [text for text in said if isinstance(text, str) and text not in ("", asked)]
        if self._key is not None:
            told = [self._key.hide(text) for text in told]
        return " ".join(text[:MAX_VERSION] for text in told)


def _abstention(choice: _Choice, text: str) -> str:
    """Say why a completion is no answer; "" where it is one."""
    if choice.finish_reason in ("length", "content_filter"):
        return choice.finish_reason
    if choice.message.refusal:
        return "refusal"
    return "" if text.strip() else "no content"


def _count(told: int | None) -> int | None:
    """A number of tokens, if one can believe it."""
    return told if told is not None and 0 <= told <= MAX_TOKENS else None


def _estimate(characters: int) -> int:
    """Tokens of a text, where the server does not count them."""
    return -(-characters // 4)


async def _read(reply: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """Read a body up to a limit; None if it is longer."""
    content = reply.content
    body = await content.readany()
    if content.at_eof():  # nearly always
        return body if len(body) <= limit else None
    chunks, size = [body], len(body)
    while chunk := await content.readany():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            return None
    return b"".join(chunks)
