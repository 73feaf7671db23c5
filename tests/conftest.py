"""Brokers for the tests.

A test that takes a broker is marked `kafka`, and `make test-kafka` runs it on Apache Kafka. One that is marked `apache`
runs only there, and one that is marked `embedded` does not: which broker it is makes no difference to it.
"""

import os
from collections.abc import Callable, Generator, Iterator

import pytest
from hypothesis import settings

from tests.brokers import Broker, empty, new_broker
from tests.measured import measured

BROKER_FIXTURES = {"broker", "own_broker"}
OWN = "AUREON_TEST_KAFKA"
"""The variable that says on which broker tests run."""


def pytest_configure() -> None:
    """Before any test, and any process with tests."""
    # Settings of who runs them are not those of the tests; nor is there a proxy before a server on this machine, though
    # there may be one before that of the packages.
    for name in list(os.environ):
        if (name.startswith("AUREON_") and name != OWN) or name == "FORCE_COLOR":
            del os.environ[name]
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost")))
    # The same examples each time, so that a change is judged by itself; none is slow that waits for a processor.
    settings.register_profile("known", deadline=None, derandomize=True)
    settings.register_profile("explore", deadline=None, max_examples=3_000, print_blob=True)
    settings.load_profile("known")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what runs on a broker, and leave out what this run's broker is not for."""
    for item in items:
        if BROKER_FIXTURES & set(getattr(item, "fixturenames", ())) or item.get_closest_marker("apache"):
            item.add_marker(pytest.mark.kafka)
    other = "embedded" if os.environ.get(OWN) == "apache" else "apache"
    config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker(other)])
    items[:] = [i for i in items if not i.get_closest_marker(other)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Take no coverage of a test that this would disturb."""
    with measured(item):
        return (yield)


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say what people want to see of a test that passed; it is printed at the end."""
    return lambda text: record_property("figures", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures, from whichever process they come."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
    for report in reports:
        for name, text in report.user_properties:
            if name == "figures":
                terminalreporter.section(report.nodeid)
                terminalreporter.write_line(str(text))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all tests of the session; they share its topics, so most want `own_broker`."""
    one = new_broker(tmp_path_factory.mktemp("broker"))
    one.start()
    yield one
    one.stop()


@pytest.fixture
def own_broker(broker: Broker) -> Iterator[Broker]:
    """A broker with nothing on it, that the test may stop, kill and start.

    It is that of the session, emptied: a new one would cost seconds on Apache Kafka.
    """
    broker.start()
    empty(broker)
    yield broker
    broker.start()
