"""What a process tells over HTTP, read as Prometheus and an orchestrator read it."""

import urllib.error
import urllib.request
from collections.abc import Sequence

from prometheus_client.parser import text_string_to_metric_families

from flows.metrics import Described

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series_names(metric: Described) -> Sequence[str]:
    """The names under which Prometheus keeps a metric."""
    if metric.kind == "histogram":
        return [metric.name + "_bucket", metric.name + "_sum", metric.name + "_count"]
    return [metric.name + "_sum", metric.name + "_count"] if metric.kind == "summary" else [metric.name]


class Scraped:
    """A process that listens on a port of this machine."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, str]:
        """The status and the body of a page; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(self._url + path, timeout=10) as answer:  # noqa: S310 - a fixed scheme
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def series(self) -> Series:
        """All values, by name and labels."""
        _, text = self.get("/metrics")
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """One value."""
        return self.series().get((name, frozenset(labels.items())))
