"""The embedded broker: one a folder, stopped with its data saved."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import Message

from connectors.checked_producer import CheckedProducer
from connectors.embedded import EmbeddedBroker, embedded_binary
from connectors.kafka import client_config, preflight, read_to_end
from connectors.topics import TASKS, ensure_topics
from schemas.errors import RefusedError, TryAgainError


def write(brokers: str, count: int) -> None:
    """Write numbers to the backlog."""
    config = client_config(brokers)
    ensure_topics(config, 1)
    producer = CheckedProducer(config)
    producer.send(TASKS, 0, [b"%d" % i for i in range(count)])
    producer.flush(10)
    producer.close()


def backlog(brokers: str) -> list[Message]:
    """Read the backlog."""
    return list(read_to_end(client_config(brokers), TASKS))


def test_sigterm_keeps_every_message_and_the_port(tmp_path: Path) -> None:
    """Stopped right after the last acknowledgement and started again, it has all of it, at the same address."""
    with EmbeddedBroker(tmp_path) as broker:
        first = broker.brokers
        write(first, 5000)
    with EmbeddedBroker(tmp_path) as broker:
        assert broker.brokers == first
        assert [m.value() for m in backlog(first)] == [b"%d" % i for i in range(5000)]


def _stop(broker: EmbeddedBroker, stopped: threading.Event) -> None:
    broker.stop()
    stopped.set()


def test_what_was_acknowledged_during_a_stop_is_kept(tmp_path: Path) -> None:
    """It saves its messages and answers its clients at the same time, unless they are sent away first."""
    broker = EmbeddedBroker(tmp_path)
    config = client_config(broker.start())
    ensure_topics(config, 1)
    producer = CheckedProducer(config, idempotent=False)
    sent, stopped = 0, threading.Event()
    for _ in range(4):
        stopped.clear()
        stopping = threading.Timer(0.5, _stop, (broker, stopped))
        stopping.start()
        while not stopped.is_set():
            producer.send(TASKS, 0, [b"%d " % (sent + i) + os.urandom(1000) for i in range(20)])
            sent += 20
            time.sleep(0.005)
        stopping.join()
        broker.start()
    producer.flush()
    producer.close()
    read = [int((m.value() or b"").split(b" ")[0]) for m in backlog(broker.brokers)]
    broker.stop()
    assert sorted(set(read)) == list(range(sent))


def test_second_start_of_a_folder_uses_the_broker_that_runs(tmp_path: Path) -> None:
    """Two owners would mean two brokers on one folder; the second is a guest, and leaves it running."""
    with EmbeddedBroker(tmp_path) as owner:
        with EmbeddedBroker(tmp_path) as guest:
            assert guest.brokers == owner.brokers
            assert not guest.owned
        assert owner.is_running()
        preflight(client_config(owner.brokers))
    assert not owner.is_running()


def test_many_processes_starting_at_once_get_one_broker(tmp_path: Path) -> None:
    """All of them see the same address, whoever was first."""
    code = (
        "import sys, pathlib; from connectors.embedded import EmbeddedBroker\n"
        "b = EmbeddedBroker(pathlib.Path(sys.argv[1])); print(b.start(), b.owned, flush=True)\n"
        "sys.stdin.read(); b.stop()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    lines = [p.stdout.readline().split() for p in processes if p.stdout]
    for process in processes:
        process.communicate()
    assert len({address for address, _ in lines}) == 1
    assert [owned for _, owned in lines].count("True") == 1
    assert not EmbeddedBroker(tmp_path).is_running()


def test_broker_of_a_killed_owner_is_adopted_with_its_messages(tmp_path: Path) -> None:
    """A kill -9 of the job leaves its broker running; the next job owns it, and stops it."""
    code = (
        "import sys, pathlib, time; from connectors.embedded import EmbeddedBroker\n"
        "print(EmbeddedBroker(pathlib.Path(sys.argv[1])).start(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        address = owner.stdout.readline().strip()
        write(address, 10)
        owner.kill()
    with EmbeddedBroker(tmp_path) as heir:
        assert heir.owned
        assert heir.brokers == address
        assert len(backlog(address)) == 10
    assert not heir.is_running()


def test_broker_whose_starter_was_killed_before_it_knew_the_process_is_adopted_and_ended(tmp_path: Path) -> None:
    """At the first start of a folder, and at a later one."""
    code = (
        "import os, pathlib, sys; from connectors.embedded import EmbeddedBroker\n"
        "remember = EmbeddedBroker._remember\n"
        "def killed(broker, running): os.kill(os.getpid(), 9) if running.pid else remember(broker, running)\n"
        "EmbeddedBroker._remember = killed\n"
        "EmbeddedBroker(pathlib.Path(sys.argv[1])).start()"
    )
    for count in (0, 10):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        assert done.returncode == -signal.SIGKILL
        with EmbeddedBroker(tmp_path) as heir:
            assert heir.owned
            if count:
                assert len(backlog(heir.brokers)) == count
            else:
                write(heir.brokers, 10)
        assert not heir.is_running()


def test_broker_that_cannot_be_ended_is_told_and_waited_for_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where its process is not to be found; the next owner, whom it does not answer any more, ends it."""
    broker = EmbeddedBroker(tmp_path)
    broker.start()
    process = broker._process
    assert process is not None
    with monkeypatch.context() as without:
        without.setattr("connectors.embedded.STOP_LIMIT_S", 0.2)
        without.setattr(EmbeddedBroker, "_signal", lambda *_: None)
        broker.stop()
    assert "does not end: `fuser" in caplog.text
    threading.Thread(target=process.wait).start()  # it is this process's child
    monkeypatch.setattr("connectors.embedded.START_LIMIT_S", 0.3)
    with pytest.raises(TryAgainError, match="did not answer"):
        EmbeddedBroker(tmp_path).start()
    assert not broker.is_running()


def test_port_that_another_program_took_is_replaced(tmp_path: Path) -> None:
    """The folder's port is a habit, not a promise."""
    with EmbeddedBroker(tmp_path) as broker:
        port = int(broker.brokers.split(":")[1])
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        with EmbeddedBroker(tmp_path) as broker:
            assert broker.brokers != f"127.0.0.1:{port}"
            preflight(client_config(broker.brokers))


def test_ctrl_c_on_the_terminal_does_not_reach_the_broker(tmp_path: Path) -> None:
    """It runs in a session of its own, so that the job can finish what it writes."""
    with EmbeddedBroker(tmp_path) as broker:
        pid = json.loads((tmp_path / "broker.json").read_bytes())["pid"]
        assert os.getsid(pid) == pid
        assert broker.is_running()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_foreground_broker_ends_in_order_on_a_signal(tmp_path: Path, how: signal.Signals) -> None:
    """What `aureon broker` does: tell the address, run, save, end with 0."""
    code = (
        "import sys, pathlib; from connectors.embedded import EmbeddedBroker\n"
        "EmbeddedBroker(pathlib.Path(sys.argv[1])).serve(lambda address: print(address, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        write(process.stdout.readline().strip(), 10)
        process.send_signal(how)
        assert process.wait(60) == 0
    with EmbeddedBroker(tmp_path) as broker:
        assert len(backlog(broker.brokers)) == 10


def test_broker_that_ends_at_once_says_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log is what explains it."""
    wrong = tmp_path / "noida-db"
    wrong.write_text("#!/bin/sh\necho out of cheese\nexit 1\n")
    wrong.chmod(0o755)
    monkeypatch.setattr("connectors.embedded.embedded_binary", lambda: wrong)
    with pytest.raises(RefusedError, match="out of cheese"):
        EmbeddedBroker(tmp_path / "folder").start()
    assert not EmbeddedBroker(tmp_path / "folder").is_running()


def pretended(folder: Path, script: str) -> Path:
    """A binary in the place of the broker's."""
    wrong = folder / "noida-db"
    wrong.write_text(script)
    wrong.chmod(0o755)
    return wrong


def test_binary_for_another_machine_is_refused_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Kafka of one's own runs anywhere."""
    wrong = pretended(tmp_path, "\x7fELF of another machine")
    monkeypatch.setattr("connectors.embedded.embedded_binary", lambda: wrong)
    with pytest.raises(RefusedError, match=r"noida-db does not run on this machine \(.*AUREON_BROKERS"):
        EmbeddedBroker(tmp_path / "folder").start()


def test_broker_that_never_answers_is_given_up_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another start may do better; one that does not let go of its clients is told, and ended all the same."""
    wrong = pretended(tmp_path, '#!/bin/sh\n[ "$1" = start ] || exit 1\nwhile :; do sleep 0.1; done\n')
    monkeypatch.setattr("connectors.embedded.embedded_binary", lambda: wrong)
    monkeypatch.setattr("connectors.embedded.START_LIMIT_S", 0.3)
    broker = EmbeddedBroker(tmp_path / "folder")
    with pytest.raises(TryAgainError, match=r"did not answer within 0 s; see .*folder"):
        broker.start()
    assert "does not let go of its clients" in caplog.text
    assert not broker.is_running()


def test_process_that_has_the_number_of_a_broker_by_now_is_left_alone(tmp_path: Path) -> None:
    """After a restart of the machine, or in a folder that was copied."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        EmbeddedBroker(tmp_path)._signal(other.pid, signal.SIGKILL)
        time.sleep(0.05)
        assert other.poll() is None
        other.kill()


def test_foreground_broker_that_ends_by_itself_is_told(tmp_path: Path) -> None:
    """Whoever supervises it starts another one."""

    def kill(_address: str) -> None:
        os.kill(json.loads((tmp_path / "broker.json").read_bytes())["pid"], signal.SIGKILL)

    with pytest.raises(RefusedError, match="the broker ended by itself; its last words"):
        EmbeddedBroker(tmp_path).serve(kill)


def test_missing_package_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra and the way round it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RefusedError, match=r"aureon\[embedded\].*AUREON_BROKERS"):
        embedded_binary()


def test_folder_that_never_had_a_broker_has_no_address(tmp_path: Path) -> None:
    """Asking does not start one."""
    with pytest.raises(RefusedError, match="aureon broker"):
        _ = EmbeddedBroker(tmp_path / "none").brokers


@pytest.mark.unmeasured
def test_start_takes_well_under_two_seconds(tmp_path: Path) -> None:
    """The demo and the tests start it often."""
    took = []
    for number in range(3):  # other programs may have the processor for a while
        began = time.monotonic()
        with EmbeddedBroker(tmp_path / str(number)):
            took.append(time.monotonic() - began)
    assert min(took) < 2
