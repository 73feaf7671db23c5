"""What operators see of a process, over HTTP: a thread that answers GET, apart from all that works."""

import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qsl

from msgspec import Struct

from schemas.errors import RefusedError

log = logging.getLogger(__name__)

READ_LIMIT_S = 10.0
"""For a client that connects and does not say what it wants."""


class Request(Struct, frozen=True):
    """What is asked for."""

    query: Mapping[str, str]
    """What follows the `?`; of a name that is given twice the last."""
    accept: str
    """The header of that name; empty where there is none."""


class Page(Struct, frozen=True):
    """An answer."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[Request], Page]]
"""By path."""


class StatusServer:
    """Serves pages.

    Unit of parallelism: the request, each in a thread of its own. Guarantee: a page that cannot be made is a 500, and
    nothing else notices. Replay: none.

    Args:
        host: which address to listen on.
        port: which port; 0 for any that is free.
        pages: by path.
        setting: what names the address, for messages.
        headers: of every answer, errors too.
        answers_to: whether a request's `Host`, without its port, is one that this server goes by. Where pages are not
            for everybody, a browser that was told a stranger's name for this address must get nothing.

    Raises:
        RefusedError: somebody else has the port, or the address is none of this machine.
    """

    def __init__(
        self,
        host: str,
        port: int,
        pages: Pages,
        *,
        setting: str = "AUREON_METRICS",
        headers: Mapping[str, str] | None = None,
        answers_to: Callable[[str], bool] = lambda _host: True,
    ) -> None:
        try:
            self._server = _Server((host, port), pages, headers or {}, answers_to)
        except OSError as error:
            raise RefusedError(
                f"{setting}: cannot listen on {host}:{port}: {error.strerror or error}; name another port"
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="aureon-status", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        name = host if isinstance(host, str) else host.decode()
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def start(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=READ_LIMIT_S)


class _Handler(BaseHTTPRequestHandler):
    timeout = READ_LIMIT_S
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        """Answer."""
        path, _, query = self.path.partition("?")
        name = _without_port(self.headers.get("Host", ""))
        if not self.server.answers_to(name):
            page = Page(f"this server does not go by {name!r}\n".encode(), HTTPStatus.MISDIRECTED_REQUEST)
        elif path not in self.server.pages:
            page = Page(f"there are {', '.join(sorted(self.server.pages))}\n".encode(), HTTPStatus.NOT_FOUND)
        else:
            try:
                page = self.server.pages[path](Request(dict(parse_qsl(query)), self.headers.get("Accept", "")))
            except Exception:
                log.exception("%s", path)
                page = Page(b"the log says why\n", HTTPStatus.INTERNAL_SERVER_ERROR)
        self._send(page)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say what is wrong with a request, in the same form; what may be left of it is not read."""
        del explain
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._send(Page(b"there is only GET\n", HTTPStatus.METHOD_NOT_ALLOWED))
        else:
            self._send(Page(f"{message or HTTPStatus(code).phrase}\n".encode(), HTTPStatus(code)))

    def _send(self, page: Page) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        if page.status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(page.body)

    def version_string(self) -> str:
        """Not which Python this is."""
        return "aureon"

    def log_message(self, *_: object) -> None:
        """Leave it out: a scraper comes every few seconds."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        pages: Pages,
        headers: Mapping[str, str],
        answers_to: Callable[[str], bool],
    ) -> None:
        self.pages = pages
        self.headers = headers
        self.answers_to = answers_to
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's own way, which asks for the host's name; that may take long."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, *_: object) -> None:
        """Nothing is wrong here."""
        log.debug("a client of the status server has gone")


def _without_port(host: str) -> str:
    """The name or the address in a `Host`, in lower case."""
    name, bracket, _ = host.lower().removeprefix("[").partition("]")
    return name if bracket else host.lower().partition(":")[0]
