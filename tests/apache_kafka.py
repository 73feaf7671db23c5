"""Apache Kafka for the tests: one node, from Maven Central's jars, on 127.0.0.1.

The embedded broker is quick and forgets what it acknowledged when it is killed. What has to hold on a broker that
does not is tested here.
"""

import base64
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

from connectors.kafka import answers

PROJECT = Path(__file__).parent.parent
CACHE = PROJECT / ".kafka"
POM = Path(__file__).with_name("apache_kafka.pom.xml")
JAVA_AT_LEAST = 17
START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0

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
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
auto.create.topics.enable=false
message.max.bytes=33554432
# One node: nothing to replicate to.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# A test waits for nobody.
group.initial.rebalance.delay.ms=0
# After a kill the controller holds the broker's place for this long.
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=250
log.segment.delete.delay.ms=1000
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
"""


class MissingToolError(RuntimeError):
    """Java or Maven is missing; the message says how to get it. The tests fail then, and never skip."""


class ApacheKafka:
    """One node of Apache Kafka in one folder: it keeps its port and its data from start to start."""

    name = "Apache Kafka"
    survives_kill = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._port, self._controller_port = _free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def brokers(self) -> str:
        """The address, as clients want it."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> str:
        """Start it, if it does not run, and wait until it answers. Returns its address."""
        if self._process is not None:
            return self.brokers
        java, jars = find_java(), fetch_jars()
        properties = self.folder / "server.properties"
        if not properties.exists():
            self._format(java, jars, properties)
        self._process = self._run(java, jars, "kafka.Kafka", str(properties))
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"Apache Kafka ended at once:\n{self._last_words()}")
            if _listens(self._port) and answers(self.brokers, 5.0):
                return self.brokers
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
        draft.write_text(PROPERTIES.format(folder=self.folder, port=self._port, controller_port=self._controller_port))
        # Kafka's own form of a UUID; it may not begin with a dash, which reads as an option.
        cluster_id = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        tool = self._run(java, jars, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(draft))
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


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
