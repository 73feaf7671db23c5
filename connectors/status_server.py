"""What operators see of a process, over HTTP: a thread that answers GET, apart from all that works."""

import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from msgspec import Struct

from schemas.errors import RefusedError

log = logging.getLogger(__name__)

READ_LIMIT_S = 10.0
"""For a client that connects and does not say what it wants."""


class Page(Struct, frozen=True):
    """An answer."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


class StatusServer:
    """Serves pages.

    Unit of parallelism: the request, each in a thread of its own. Guarantee: a page that cannot be made is a 500, and
    nothing else notices. Replay: none.

    Args:
        host: which address to listen on.
        port: which port; 0 for any that is free.
        pages: by path; each is given the `Accept` of the request.

    Raises:
        RefusedError: somebody else has the port, or the address is none of this machine.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[str], Page]]) -> None:
        try:
            self._server = _server(host, port, pages)
        except OSError as error:
            raise RefusedError(
                f"AUREON_METRICS: cannot listen on {host}:{port}: {error.strerror or error}; name another port"
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


def _server(host: str, port: int, pages: Mapping[str, Callable[[str], Page]]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = READ_LIMIT_S
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            make = pages.get(self.path.partition("?")[0])
            if make is None:
                page = Page(f"there are {', '.join(sorted(pages))}\n".encode(), HTTPStatus.NOT_FOUND)
            else:
                try:
                    page = make(self.headers.get("Accept", ""))
                except Exception:
                    log.exception("%s", self.path)
                    page = Page(b"the log says why\n", HTTPStatus.INTERNAL_SERVER_ERROR)
            self.send_response(page.status)
            self.send_header("Content-Type", page.content_type)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            self.wfile.write(page.body)

        def log_message(self, *_: object) -> None:
            """Leave it out: a scraper comes every few seconds."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def server_bind(self) -> None:
            socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks for the host's name, which may take long

        def handle_error(self, *_: object) -> None:
            log.debug("a client of the status server has gone")

    return Server((host, port), Handler)
