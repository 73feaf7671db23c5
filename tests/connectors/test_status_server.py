"""Pages over HTTP, to clients that ask badly or go away."""

import logging
import socket
import struct
import threading
from urllib.request import urlopen

import pytest

from connectors.status_server import Page, Request, StatusServer
from tests.aureon_command import until

LIMIT_S = 30.0


def connected(server: StatusServer) -> socket.socket:
    """A client that speaks for itself."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=LIMIT_S)


def test_a_request_that_is_too_long_is_told_so_in_the_form_of_all_answers() -> None:
    """And nothing more is read of that client."""
    server = StatusServer("127.0.0.1", 0, {}, headers={"X-Of-All": "yes"}).start()
    try:
        with connected(server) as client:
            client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
    finally:
        server.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"X-Of-All: yes" in head
    assert body == b"Line too long\n"


def test_a_client_that_goes_away_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is no fault, and the next one is answered."""
    asked, gone = threading.Event(), threading.Event()

    def slow(_request: Request) -> Page:
        asked.set()
        assert gone.wait(LIMIT_S)
        return Page(b"x" * 10_000_000)

    server = StatusServer("127.0.0.1", 0, {"/slow": slow, "/": lambda _request: Page(b"here")}).start()
    try:
        with caplog.at_level(logging.DEBUG):
            with connected(server) as client:
                client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
                assert asked.wait(LIMIT_S)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.set()
            until(lambda: "a client of the status server has gone" in caplog.text)
        assert {record.levelno for record in caplog.records} == {logging.DEBUG}
        with urlopen(f"{server.url}/", timeout=LIMIT_S) as answer:  # noqa: S310 - the server above
            assert answer.read() == b"here"
    finally:
        server.close()
