"""What operators see of a process over HTTP, wired up: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever
starts processes again, or sends them work.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Protocol, Self

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from connectors.lane_ends import LaneEnds
from connectors.status_server import Page, Request, StatusServer
from flows.metrics import Part, Scrape
from flows.settings import Settings


class Status(Protocol):
    """What is known of a process from outside."""

    @property
    def parts(self) -> Sequence[Part]:
        """Tell the metrics."""
        ...

    @property
    def ends(self) -> LaneEnds:
        """Where its lanes end."""
        ...

    def ails(self) -> str:
        """Why it is not healthy; empty where it is."""
        ...

    def lacks(self) -> str:
        """Why it is not ready; empty where it is."""
        ...


class Telemetry:
    """Serves what a status tells, where the settings name an address; otherwise nothing is begun.

    Args:
        settings: `metrics` names the address.
        status: of this process.

    Raises:
        RefusedError: the address is none, or somebody else has it.
    """

    def __init__(self, settings: Settings, status: Status) -> None:
        self._status = status
        self._server: StatusServer | None = None
        address = settings.metrics_address
        if address is None:
            return
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(Scrape(status.parts))

        def metrics(request: Request) -> Page:
            encode, content_type = choose_encoder(request.accept)
            return Page(encode(registry), content_type=content_type)

        pages = {"/metrics": metrics, "/healthz": _probe(status.ails), "/readyz": _probe(status.lacks)}
        self._server = StatusServer(*address, pages)

    @property
    def url(self) -> str:
        """Where it is served; empty where it is not."""
        return self._server.url if self._server is not None else ""

    def start(self) -> Self:
        """Begin."""
        if self._server is not None:
            self._status.ends.start()
            self._server.start()
        return self

    def close(self) -> None:
        """End."""
        if self._server is not None:
            self._server.close()
            self._status.ends.close()


def _probe(why_not: Callable[[], str]) -> Callable[[Request], Page]:
    def page(_request: Request) -> Page:
        reason = why_not()
        return Page(f"{reason}\n".encode(), HTTPStatus.SERVICE_UNAVAILABLE) if reason else Page(b"ok\n")

    return page


@contextmanager
def shown(settings: Settings, status: Status) -> Iterator[Telemetry]:
    """Serve it while something runs.

    Raises:
        RefusedError: as `Telemetry`.
    """
    telemetry = Telemetry(settings, status).start()
    try:
        yield telemetry
    finally:
        telemetry.close()
