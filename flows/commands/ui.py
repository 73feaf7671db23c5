"""`aureon ui`: a page that shows the cluster and each task's rounds, over HTTP; it only reads.

    /               the page, its style and its script
    /cluster.json   how the cluster is                          Cluster
    /lake.json      how it fared, ?over=10m|1h|24h|all          Lake
    /task.json      ?topic=…&logical_id=…                       Tree, or {"error": …}

Answers of models are in it, so nothing on the page is taken for anything but text: the script makes elements and sets
their text, and the headers forbid the browser to run anything else. What does not answer is told in the JSON.
"""

import argparse
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from importlib import resources

import duckdb
import msgspec
from deltalake.exceptions import DeltaError
from msgspec import Struct

from connectors.status_server import Page, Pages, Request, StatusServer
from flows.commands.arguments import settings_of
from flows.commands.overview import Observer
from flows.commands.overview_lake import ALL_OF_IT, SPANS
from flows.settings import address_of
from flows.stopping import waited_for
from flows.terminal import OK, say
from schemas.errors import AureonError

HEADERS: Mapping[str, str] = {
    # No script but the page's own, no style in an attribute, no picture, no frame, and no text made into elements.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_JSON = "application/json; charset=utf-8"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/ui.css": ("ui.css", "text/css; charset=utf-8"),
    "/ui.js": ("ui.js", "text/javascript; charset=utf-8"),
}
AT_ONCE = 2
"""Trees that are looked for at a time; each reads the lake."""


class Trouble(Struct, frozen=True):
    """Why there is nothing else to tell."""

    error: str


def main(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C or SIGTERM."""
    settings = settings_of(options)
    host, port = address_of("--listen", options.listen)
    observer = Observer(settings)
    server = StatusServer(
        host, port, pages_of(observer), setting="--listen", headers=HEADERS, answers_to=names_of(host)
    )
    with waited_for(signal.SIGINT, signal.SIGTERM) as asked_to_end:
        server.start()
        say(f"aureon: {server.url}/ shows the cluster. Ctrl-C stops it.")
        asked_to_end(None)
    server.close()
    observer.end()
    return OK


def names_of(host: str) -> Callable[[str], bool]:
    """Say which names the server goes by; a stranger's that leads to it is none.

    Args:
        host: what it listens on.
    """
    names = {host.lower(), socket.gethostname().lower()}
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        local, every = host.lower() == "localhost", False
    else:
        local, every = address.is_loopback, address.is_unspecified
    if local or every:
        names |= {"localhost", "127.0.0.1", "::1"}

    def answers_to(name: str) -> bool:
        return name in names or (every and _is_address(name))  # an address is nobody's name

    return answers_to


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def pages_of(observer: Observer) -> Pages:
    """What is served, by path."""
    folder = resources.files("flows.commands") / "ui_page"
    files = {path: Page((folder / name).read_bytes(), content_type=kind) for path, (name, kind) in _FILES.items()}
    seats = threading.Semaphore(AT_ONCE)

    def cluster(_request: Request) -> Page:
        return _told(observer.cluster())

    def lake(request: Request) -> Page:
        span = request.query.get("over", ALL_OF_IT)
        if span not in SPANS:
            return _told(Trouble(f"over={span!r}: there are {', '.join(SPANS)}"), HTTPStatus.BAD_REQUEST)
        return _told(observer.lake(span))

    def task(request: Request) -> Page:
        topic, logical_id = request.query.get("topic", ""), request.query.get("logical_id", "")
        if not (topic and logical_id):
            return _told(Trouble("a task is found by its topic and its logical id"), HTTPStatus.BAD_REQUEST)
        try:
            with seats:
                tree = observer.tree(topic, logical_id)
        except (AureonError, OSError, DeltaError, duckdb.Error) as error:
            return _told(Trouble(str(error)))
        if tree is None:
            there_is_none = (
                f"the lake has no task {logical_id!r} on the topic {topic!r}, or none of its rounds is decided yet"
            )
            return _told(Trouble(there_is_none), HTTPStatus.NOT_FOUND)
        return _told(tree)

    made = {path: partial(_as_it_is, page) for path, page in files.items()}
    return {**made, "/cluster.json": cluster, "/lake.json": lake, "/task.json": task}


def _as_it_is(page: Page, _request: Request) -> Page:
    return page


def _told(what: Struct, status: HTTPStatus = HTTPStatus.OK) -> Page:
    return Page(msgspec.json.encode(what), status, _JSON)
