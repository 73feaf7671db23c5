"""Apache Kafka for the tests: one node or three, from Maven Central's jars, on 127.0.0.1.

The embedded broker is quick and forgets what it acknowledged when it is killed. What has to hold on a broker that
does not is tested here.
"""

import base64
import contextlib
import fcntl
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from msgspec import Struct

from connectors.kafka import admin_client, answers, client_config

PROJECT = Path(__file__).parent.parent
CACHE = PROJECT / ".kafka"
POM = Path(__file__).with_name("apache_kafka.pom.xml")
JAVA_AT_LEAST = 17
START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0
FIRST_PORT, PORTS = 20_000, 1_000
_PORTS = itertools.count(os.getpid())  # two runs at once begin elsewhere

LOG4J = """
Configuration:
  status: error
  Appenders:
    Console:
      name: out
      PatternLayout: {pattern: "%d %p %c{1.}: %m%n"}
  Loggers:
    Root:
      level: warn
      AppenderRef: {ref: out}
"""

PROPERTIES = """
process.roles=broker,controller
node.id={number}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
auto.create.topics.enable=false
message.max.bytes=33554432
# All that is acknowledged is on all nodes but one; of one node, on that one.
min.insync.replicas={in_sync}
offsets.topic.replication.factor={nodes}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={nodes}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor={nodes}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=1
# A test waits for nobody.
group.initial.rebalance.delay.ms=0
# After a kill the controller holds the broker's place for this long, which is less than a start takes. One that is too
# slow for it is shut out and let in again, after which 4.4.0 has been seen to refuse its groups for good.
broker.session.timeout.ms={session_ms}
broker.heartbeat.interval.ms=250
log.segment.delete.delay.ms=1000
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
"""


def stand_still(pid: int) -> None:
    """Stop a process with SIGSTOP, and wait until all of its threads have: on a busy machine one may answer before."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    while any(stat.read_text().rpartition(") ")[2][0] not in "TZ" for stat in threads.glob("*/stat")):
        time.sleep(0.005)


class MissingToolError(RuntimeError):
    """Java or Maven is missing; the message says how to get it. The tests fail then, and never skip."""


class Place(Struct, frozen=True):
    """Where one node of a cluster listens."""

    number: int
    port: int
    controller_port: int


class ApacheKafka:
    """One node of Apache Kafka in one folder: it keeps its port and its data from start to start.

    Args:
        folder: its own.
        place: where it listens, and its number in the cluster; free ports by default.
        cluster: the places of all nodes; without it the node is alone.
        cluster_id: the same for all nodes.
    """

    name = "Apache Kafka"
    survives_kill = True

    def __init__(
        self, folder: Path, place: Place | None = None, cluster: Sequence[Place] = (), cluster_id: str | None = None
    ) -> None:
        self.folder = folder.absolute()
        self.place = place or free_places(1)[0]
        self._cluster = cluster or [self.place]
        self._cluster_id = cluster_id or new_cluster_id()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def brokers(self) -> str:
        """The address, as clients want it."""
        return f"127.0.0.1:{self.place.port}"

    def start(self) -> str:
        """Start it, if it does not run, and wait until it answers. Returns its address."""
        if self._process is None:
            self.launch()
            self.wait_until_it_answers()
        return self.brokers

    def launch(self) -> None:
        """Start it, and wait for nothing: one node of a cluster alone does not answer."""
        java, jars = find_java(), fetch_jars()
        properties = self.folder / "server.properties"
        if not properties.exists():
            self._format(java, jars, properties)
        self._process = self._run(java, jars, "kafka.Kafka", str(properties))

    def wait_until_it_answers(self) -> None:
        """Wait for the end of its start.

        Raises:
            RuntimeError: it ended, or takes too long; with its last words.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"Apache Kafka ended at once:\n{self._last_words()}")
            if _listens(self.place.port) and answers(self.brokers, 5.0):
                return
            time.sleep(0.05)
        raise RuntimeError(f"Apache Kafka did not answer within {START_LIMIT_S:.0f} s:\n{self._last_words()}")

    def stop(self) -> None:
        """Ask it to stop, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would, but for the machine's page cache."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it again, on the same data and port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Have it answer nothing any more while its connections stay, as a machine that lost its power does."""
        if self._process is not None:
            stand_still(self._process.pid)

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def properties(self) -> str:
        """Its configuration."""
        nodes = len(self._cluster)
        return PROPERTIES.format(
            folder=self.folder,
            number=self.place.number,
            port=self.place.port,
            controller_port=self.place.controller_port,
            voters=",".join(f"{p.number}@127.0.0.1:{p.controller_port}" for p in self._cluster),
            nodes=nodes,
            # Of several, the others take over after that.
            session_ms=4500 if nodes == 1 else 3000,
            in_sync=max(1, nodes - 1),
        )

    def format_options(self) -> list[str]:
        """What else its storage is formatted with."""
        return []

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _format(self, java: str, jars: Path, properties: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log4j2.yaml").write_text(LOG4J)
        draft = self.folder / "server.properties.new"
        draft.write_text(self.properties())
        command = ("format", "-t", self._cluster_id, "-c", str(draft), *self.format_options())
        tool = self._run(java, jars, "kafka.tools.StorageTool", *command)
        if tool.wait(START_LIMIT_S) != 0:
            raise RuntimeError(f"Kafka's storage could not be formatted:\n{self._last_words()}")
        draft.rename(properties)

    def _run(self, java: str, jars: Path, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        options = [
            *("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC"),
            # Starts in half the time, and a test's load does not need the second compiler.
            *("-XX:TieredStopAtLevel=1", "-Xshare:auto"),
            *(f"-Dlog4j2.configurationFile={self.folder}/log4j2.yaml", "-Djava.awt.headless=true"),
        ]
        with (self.folder / "kafka.log").open("ab") as output:
            return subprocess.Popen(
                [java, *options, "-cp", f"{jars}/*", main, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _last_words(self) -> str:
        return (self.folder / "kafka.log").read_bytes()[-3000:].decode(errors="replace")


class ApacheKafkaCluster:
    """Nodes of which each is broker and controller, and may be killed alone: what is acknowledged is on two of three.

    Args:
        folder: that of all.
    """

    NODES = 3

    def __init__(self, folder: Path) -> None:
        places, cluster_id = free_places(self.NODES), new_cluster_id()
        self.nodes = {p.number: ApacheKafka(folder / f"node-{p.number}", p, places, cluster_id) for p in places}

    @property
    def brokers(self) -> str:
        """The addresses, as clients want them."""
        return ",".join(node.brokers for node in self.nodes.values())

    def start(self) -> None:
        """Start those that do not run, and wait until all answer and hold all."""
        with ThreadPoolExecutor(self.NODES) as pool:
            list(pool.map(ApacheKafka.launch, self.nodes.values()))
        for node in self.nodes.values():
            node.wait_until_it_answers()
        self.wait_until_in_sync()

    def stop(self) -> None:
        """End them all; what they hold is nobody's any more."""
        for node in self.nodes.values():
            node.kill()

    def wait_until_in_sync(self) -> None:
        """Wait until every partition is on as many nodes as it should be.

        Raises:
            TimeoutError: names what is not.
        """
        client = admin_client(client_config(self.brokers))
        deadline = time.monotonic() + START_LIMIT_S
        looks = 0
        # One answer may be that of a node which has not heard of the last change yet.
        while looks < self.NODES:
            found = client.list_topics(timeout=10)
            behind = [
                f"{topic.topic}[{number}]"
                for topic in found.topics.values()
                for number, partition in topic.partitions.items()
                if len(partition.isrs) < len(partition.replicas)
            ]
            looks = 0 if behind or len(found.brokers) < self.NODES else looks + 1
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(found.brokers)} brokers, and not in sync: {', '.join(behind)}")
            time.sleep(0.3)

    def controller(self) -> int:
        """Tell which node leads the controllers, as they have written it down; brokers name any to their clients."""
        votes = [
            msgspec.json.decode((node.folder / "data/__cluster_metadata-0/quorum-state").read_bytes(), type=_Vote)
            for node in self.nodes.values()
        ]
        return max(votes, key=lambda vote: (vote.leader_epoch, vote.leader_id)).leader_id

    def coordinator(self) -> int:
        """Tell which node keeps the offsets of the consumer groups."""
        return self.leader("__consumer_offsets", 0)

    def leader(self, kafka_topic: str, partition: int) -> int:
        """Tell which node leads a partition."""
        found = admin_client(client_config(self.brokers)).list_topics(kafka_topic, timeout=10)
        return int(found.topics[kafka_topic].partitions[partition].leader)


class _Vote(Struct, rename="camel"):
    """What a controller remembers of the last election."""

    leader_id: int
    leader_epoch: int


def new_cluster_id() -> str:
    """Make one in Kafka's own form of a UUID; it may not begin with a dash, which reads as an option."""
    return "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


def free_places(count: int) -> list[Place]:
    """Find ports that are free now."""
    ports = free_ports(2 * count)
    return [Place(number + 1, *ports[2 * number : 2 * number + 2]) for number in range(count)]


def find_java() -> str:
    """Find a Java that is new enough.

    Raises:
        MissingToolError: says how to get one.
    """
    cure = f"install one (Debian, Ubuntu: `apt-get install openjdk-{JAVA_AT_LEAST}-jre-headless`) or set JAVA_HOME"
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if java is None:
        raise MissingToolError(f"Apache Kafka needs Java {JAVA_AT_LEAST}, and there is none: {cure}")
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < JAVA_AT_LEAST:
        raise MissingToolError(f"Apache Kafka needs Java {JAVA_AT_LEAST}, and {java} is another ({told!r}): {cure}")
    return java


def fetch_jars() -> Path:
    """Fetch Kafka's jars by Maven, once; two processes may ask at the same time.

    Raises:
        MissingToolError: there is no Maven, or it got nothing.
    """
    version = re.search(r"kafka_2.13</artifactId>\s*<version>([^<]+)", POM.read_text())
    jars = CACHE / f"kafka-{version[1] if version else 'unknown'}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if jars.is_dir():
            return jars
        maven = shutil.which("mvn")
        if maven is None:
            raise MissingToolError(
                "Maven fetches Apache Kafka, and there is none: install it (Debian, Ubuntu: `apt-get install maven`)"
            )
        draft = CACHE / "fetching"
        shutil.rmtree(draft, ignore_errors=True)
        command = [maven, "-B", "-q", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={draft}"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise MissingToolError(f"Maven could not fetch Apache Kafka:\n{(run.stdout + run.stderr)[-3000:]}")
        draft.rename(jars)
    return jars


def free_ports(count: int) -> list[int]:
    """Find ports that are free now, and that nobody else takes before they are used.

    They are below those that the system gives to whoever asks for any, and each process with tests has its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports: list[int] = []
    while len(ports) < count:
        port = FIRST_PORT + worker % 12 * PORTS + next(_PORTS) % PORTS
        with socket.socket() as probe, contextlib.suppress(OSError):  # it is in use
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
