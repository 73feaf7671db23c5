"""`aureon ui`: what it serves and to whom, and what a browser makes of it."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest

from connectors.nodes import Node
from flows.commands.ui import names_of
from one_lake.notes import NoteWriter
from schemas.node import Answer, Call, NodeCapabilities
from tests.aureon_command import ROOT, aureon, running, said, until
from tests.brokers import Broker, empty, new_broker
from tests.flows.commands.test_overview_lake import root_notes
from tests.one_lake.lake_data import decisions, lake_writer

PAGE = ROOT / "flows" / "commands" / "ui_page"
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
"""What a model says, and what it names a topic: it may be shown, and must do nothing."""
TOPIC = "math <b>&amp;</b>"
TASKS = 6


class HostileNode:
    """Says what should not be run; on root tasks it asks for a branch. Once it says something else."""

    def __init__(self, name: str) -> None:
        self.capabilities = NodeCapabilities(node=name, models=("m",))

    async def ask(self, call: Call) -> Answer:
        """Answer."""
        differs = call.logical_id == "t0" and not call.round_index and call.node == "second"
        branches = [{"topic": "law", "payload": {"prompt": f"what of {call.logical_id} and {HOSTILE}?"}}]
        meta = {"branches": branches} if ":branch-" not in call.logical_id else None
        return Answer(node=call.node, model=call.model, text="something else" if differs else HOSTILE, meta=meta)

    async def close(self) -> None:
        """Nothing to let go of."""


def hostile_nodes() -> list[Node]:
    """Two that agree but for once."""
    return [HostileNode("first"), HostileNode("second")]


class Told(NamedTuple):
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        """The body, where it is JSON."""
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        return json.loads(self.body)


class Served(NamedTuple):
    """A page that is served, and the folder of its cluster."""

    home: Path
    url: str

    def ask(self, path: str, method: str = "GET", **headers: str) -> Told:
        """Ask for a page."""
        address = urlsplit(self.url)
        assert address.hostname is not None
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return Told(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode())
        finally:
            connection.close()

    def task(self, topic: str, logical_id: str) -> Told:
        """Ask for a task."""
        return self.ask(f"/task.json?topic={quote(topic)}&logical_id={quote(logical_id)}")


@contextmanager
def served(home: Path, **variables: str) -> Iterator[Served]:
    """Serve the page of a folder's cluster."""
    with running("ui", "--listen", "0", cwd=home, **variables) as process:
        until(lambda: re.search(r"http://\S+/ shows the cluster", said(home)), 60, process)
        (url,) = re.findall(r"(http://\S+)/ shows the cluster", said(home))
        yield Served(home, url)


@pytest.fixture(scope="module")
def page(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of a cluster with a cell that has refined some tasks, and notes of a root."""
    home = tmp_path_factory.mktemp("cluster")
    broker.start()
    empty(broker)
    brokers = {"AUREON_BROKERS": broker.brokers}
    tasks = [
        {"topic": TOPIC, "logical_id": f"t{n}", "payload": {"prompt": f"{n}? {HOSTILE}", "answer_kind": "text"}}
        for n in range(TASKS)
    ]
    lines = "".join(f"{json.dumps(task)}\n" for task in tasks)
    assert aureon("submit", "-", cwd=home, stdin=lines, AUREON_BROKERS=broker.brokers).returncode == 0
    cell = ("run", "--nodes", "tests.flows.commands.test_ui:hostile_nodes")
    with running(*cell, cwd=home, **brokers) as process, served(home, **brokers) as there:

        def all_ended() -> bool:
            count = "SELECT count(*) AS n FROM one"
            done = aureon("sql", "--json", count, cwd=home)
            return done.returncode == 0 and json.loads(done.stdout) == [{"n": 2 * TASKS}]

        until(all_ended, 90, process)
        NoteWriter(home / ".aureon" / "lake").add(root_notes(time.time()))
        yield there


def test_the_cluster_is_told(page: Served) -> None:
    """As its cell says."""
    until(lambda: page.ask("/cluster.json").json["cells"], 20)
    told = page.ask("/cluster.json").json
    (cell,) = [c for c in told["cells"] if c["cell"] != "gone"]
    assert (cell["silent"], cell["lanes"]) == (False, [0, 1, 2, 3])
    assert {n["node"] for n in told["nodes"]} == {"first", "second"}
    assert told["kafka"]["inputs"]["tasks.global"]["messages"] == 2 * TASKS
    assert len(told["kafka"]["waiting_by_lane"]) == told["kafka"]["lanes"] == 4
    assert sum(told["kafka"]["waiting_by_lane"]) == sum(i["waiting"] for i in told["kafka"]["inputs"].values())
    assert told["broker_error"] is None


@pytest.mark.parametrize("over", ["10m", "1h", "24h", "all"])
def test_the_lake_is_told(page: Served, over: str) -> None:
    """Of each span, all that was just done."""

    def told() -> Any:
        return page.ask(f"/lake.json?over={over}").json

    until(lambda: told()["notes"]["noted_at"] is not None, 90)
    found = told()
    assert found["error"] is None
    assert {t["topic"]: t["converged"] for t in found["topics"]} == {TOPIC: TASKS, "law": TASKS}
    assert [(r["round"], r["converged"]) for r in found["rounds"]] == [(1, 2 * TASKS - 1), (2, 1)]
    assert sum(map(sum, found["throughput"]["counts"])) == 2 * TASKS + 1
    assert [a["quality"] for a in found["notes"]["affinities"]] == [0.9, 0.1]


def test_a_task_is_told_with_its_rounds_and_branches(page: Served) -> None:
    """What its models said is text, letter by letter."""
    tree = page.task(TOPIC, "t0").json
    assert (tree["tasks"], tree["cut"]) == (2, False)
    root = tree["root"]
    assert (root["status"], root["answer"], root["question"]) == ("converged", HOSTILE, f"0? {HOSTILE}")
    assert [r["kind"] for r in root["rounds"]] == ["next_round", "converged"]
    assert {a["text"] for a in root["rounds"][0]["answers"]} == {HOSTILE, "something else"}
    assert [a["gave_it"] for a in root["rounds"][1]["answers"]] == [True, True]
    (branch,) = root["branches"]
    assert (branch["logical_id"], branch["topic"], branch["status"]) == ("t0:branch-0", "law", "converged")
    assert page.task("law", "t0:branch-0").json["root"]["logical_id"] == "t0"


@pytest.mark.parametrize(
    "topic, logical_id",
    [(TOPIC, "nothing"), ("law", "t0"), (HOSTILE, HOSTILE), ("'; --", "'")],
    ids=["id", "topic", "hostile", "quotes"],
)
def test_a_task_that_is_not_there_is_told(page: Served, topic: str, logical_id: str) -> None:
    """By its name."""
    told = page.task(topic, logical_id)
    assert told.status == 404
    assert told.json["error"].startswith(f"the lake has no task {logical_id!r} on the topic {topic!r}")


@pytest.mark.parametrize("path", ["/task.json", "/task.json?topic=math", "/lake.json?over=ever"])
def test_a_question_that_is_none_is_told(page: Served, path: str) -> None:
    """With what is missing, or what there is."""
    told = page.ask(path)
    assert told.status == 400
    assert re.search("by its topic and its logical id|there are 10m, 1h, 24h, all", told.json["error"])


@pytest.mark.parametrize(
    "path, method, status",
    [
        ("/", "GET", 200),
        ("/?topic=a&logical_id=b", "GET", 200),
        ("/ui.js", "GET", 200),
        ("/ui.css", "GET", 200),
        ("/cluster.json", "GET", 200),
        ("/task.json?topic=a&logical_id=b", "GET", 404),
        ("/nowhere", "GET", 404),
        ("/../ui.py", "GET", 404),
        ("/", "POST", 405),
        ("/cluster.json", "OPTIONS", 405),
        ("/", "DELETE", 405),
    ],
)
def test_every_answer_has_its_guards(page: Served, path: str, method: str, status: int) -> None:
    """Errors too; and nobody else's page may read any."""
    told = page.ask(path, method, Origin="http://evil.example")
    assert told.status == status
    policy = dict(part.strip().split(" ", 1) for part in told.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in told.headers["content-security-policy"]
    assert told.headers["x-content-type-options"] == "nosniff"
    assert told.headers["cross-origin-resource-policy"] == "same-origin"
    assert told.headers["cache-control"] == "no-store"
    assert not [name for name in told.headers if name.startswith("access-control-")]
    assert not told.headers["content-type"].startswith("text/html") or path.startswith("/?") or path == "/"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "10.0.0.1", "[::2]:80"]
)
@pytest.mark.parametrize("path", ["/", "/cluster.json", "/nowhere"])
def test_whoever_comes_by_a_strangers_name_gets_nothing(page: Served, host: str, path: str) -> None:
    """A browser may have been told that the stranger's name is this address."""
    told = page.ask(path, Host=host)
    assert (told.status, told.headers["content-type"]) == (421, "text/plain; charset=utf-8")
    assert "does not go by" in told.body


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1:9", "[::1]:80", socket.gethostname()])
def test_whoever_comes_by_a_name_of_this_machine_is_served(page: Served, host: str) -> None:
    """Whatever the port: it may be that of a tunnel."""
    assert page.ask("/", Host=host).status == 200


def test_it_stops_in_order_whatever_it_is_asked_at_that_moment(tmp_path: Path) -> None:
    """A process that ends while one of its threads is in DuckDB would be aborted."""
    lake = lake_writer(tmp_path / ".aureon" / "lake")
    for first in range(0, 2000, 250):  # a file each, so that a look takes some time
        lake.add(decisions(0, range(first, first + 250)))
        lake.flush()
    lake.close()
    over = threading.Event()

    def ask(there: Served) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while not over.is_set():
                there.task("math", "task-0-3")

    def urls() -> list[str]:
        return re.findall(r"(http://\S+)/ shows the cluster", said(tmp_path))

    for turn in range(4):
        with running("ui", "--listen", "0", cwd=tmp_path) as process:
            until(partial(lambda before: len(urls()) > before, turn), 60, process)
            there = Served(tmp_path, urls()[-1])
            askers = [threading.Thread(target=ask, args=(there,)) for _ in range(3)]
            for asker in askers:
                asker.start()
            time.sleep(1.0 + 0.07 * turn)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, said(tmp_path)
            for asker in askers:
                asker.join()


def test_the_names_of_a_server_follow_from_where_it_listens() -> None:
    """On all addresses it goes by any of them, and by no stranger's name."""
    everywhere, one, named = names_of("::"), names_of("10.0.0.1"), names_of("panel.internal")
    assert all(map(everywhere, ("10.1.2.3", "::1", "localhost")))
    assert not any(map(everywhere, ("evil.example", "")))
    assert [one(n) for n in ("10.0.0.1", "10.0.0.2", "localhost")] == [True, False, False]
    assert [named(n) for n in ("panel.internal", "evil.example")] == [True, False]


@pytest.mark.parametrize("listen", ["here", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(listen: str, tmp_path: Path) -> None:
    """With an example."""
    done = aureon("ui", "--listen", listen, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"aureon: --listen={listen!r}: expected PORT or HOST:PORT, such as 0.0.0.0:9464\n"


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    """It says what to change."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = aureon("ui", "--listen", str(taken.getsockname()[1]), cwd=tmp_path)
    assert done.returncode == 2
    assert "--listen: cannot listen on 127.0.0.1:" in done.stderr
    assert "name another port" in done.stderr


def test_without_a_broker_and_a_lake_it_says_so_and_goes_on(tmp_path: Path) -> None:
    """Nothing of it is an error of the server; it makes nothing, and Ctrl-C ends it."""
    with running("ui", "--listen", "0", cwd=tmp_path) as process:
        until(lambda: "shows the cluster" in said(tmp_path), 60, process)
        there = Served(tmp_path, re.findall(r"(http://\S+)/ shows", said(tmp_path))[0])
        assert there.ask("/").status == 200
        cluster, lake = there.ask("/cluster.json"), there.ask("/lake.json")
        assert (cluster.status, lake.status) == (200, 200)
        assert cluster.json["broker_error"].startswith("no broker: set AUREON_BROKERS")
        assert (cluster.json["cells"], cluster.json["kafka"]) == ([], None)
        assert lake.json["error"].startswith("no lake at")
        task = there.task("math", "t0")
        assert (task.status, task.json["error"].startswith("no lake at")) == (200, True)
        assert not (tmp_path / ".aureon").exists()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert "Traceback" not in said(tmp_path)


def test_an_empty_cluster_has_a_page(tmp_path: Path) -> None:
    """A broker without Aureon's Kafka topics, too; it is left as it is."""
    another = new_broker(tmp_path / "broker")  # that of the session has the other tests' cluster
    another.start()
    try:
        with served(tmp_path, AUREON_BROKERS=another.brokers) as there:
            told = there.ask("/cluster.json").json
            assert (told["kafka"], told["broker_error"], told["cells"], told["nodes"]) == (None, None, [], [])
    finally:
        another.stop()


def test_the_page_is_whole_in_itself_and_makes_no_elements_of_texts() -> None:
    """Nothing of it is from elsewhere, no script or style is within the markup, and no text is taken for markup."""
    html, css, script = ((PAGE / name).read_text() for name in ("index.html", "ui.css", "ui.js"))
    assert re.findall(r"<script(.*?)>(.*?)</script>", html, re.DOTALL) == [(' src="ui.js" defer', "")]
    assert not re.search(r"<style|\sstyle=|\son\w+=", html)
    for text in (html, css, script.replace("http://www.w3.org/2000/svg", "")):
        assert not re.search(r"https?:|//\w+\.|@import|url\(", text)
    code = re.sub(r"//.*", "", script)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(|\.style\b", code)
    assert '<html lang="en">' in html


def test_the_files_of_the_page_are_shipped() -> None:
    """Not only in a checkout."""
    shipped = (ROOT / "pyproject.toml").read_text()
    assert '"flows.commands.ui_page" = ["*.html", "*.css", "*.js"]' in shipped
    assert {path.suffix for path in PAGE.iterdir()} == {".html", ".css", ".js"}


# -- in a browser --------------------------------------------------------------------------------------------------

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium in PATH: install chromium, or name one in CHROMIUM"
)


def dom_of(url: str, profile: Path) -> str:
    """What a browser has made of a page some seconds after it was loaded."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
    # Chromium's own sandbox does not start as root, nor in most containers; the page is ours.
    command += ["--no-sandbox", "--no-first-run", "--virtual-time-budget=8000", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout.decode()


def part(dom: str, name: str) -> str:
    """A section of the page."""
    found = re.search(rf'<section id="{name}".*?</section>', dom, re.DOTALL)
    assert found is not None
    return found[0]


def escaped(text: str) -> str:
    """A text as it is within elements."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@needs_chromium
@pytest.mark.slow
def test_a_browser_shows_the_figures_the_heat_map_and_the_tree(page: Served, tmp_path: Path) -> None:
    """And hostile text is text: no element came of it, and nothing of it ran."""
    until(lambda: page.ask("/lake.json?over=1h").json["notes"]["noted_at"] is not None, 90)
    dom = dom_of(f"{page.url}/?topic={quote(TOPIC)}&logical_id=t0", tmp_path / "profile")
    assert "<title>Aureon</title>" in dom
    assert len(re.findall("<script", dom)) == 1
    assert "<img" not in dom
    assert "<b>&amp;" not in dom

    cluster = part(dom, "cluster")
    assert re.search(r"<dt>messages waiting</dt><dd>[\d,]+</dd>", cluster)
    for name in ("first", "second"):
        assert re.search(rf'<th class="name" scope="row">{name}</th>', cluster)
    assert f'<td class="number">{2 * TASKS}</td>' in cluster  # messages of tasks.global
    assert "on math: noise" in cluster
    assert "silent for" in cluster  # the cell of which only the root knows

    throughput = part(dom, "throughput")
    assert 'role="img"' in throughput
    assert throughput.count("<rect") >= 3
    assert f"{2 * TASKS + 1} rounds decided" in throughput

    convergence = part(dom, "convergence")
    assert escaped(TOPIC) in convergence
    assert re.search(r'<th class="name" scope="row">2</th>', convergence)

    heat = part(dom, "affinities")
    assert '<th scope="col">math</th>' in heat
    assert re.search(r'<th scope="row">good</th><td class="h9">90 %', heat)
    assert re.search(r'<th scope="row">noisy</th><td class="h1 kept">10 %<small>quarantined</small>', heat)

    tree = part(dom, "task")
    assert escaped(HOSTILE) in tree
    assert re.search(r'<details class="asked" open="open" aria-current="true"><summary><b>t0</b>', tree)
    assert "<b>t0:branch-0</b> on law" in tree
    assert "round 1 (r0): " in tree
    assert "round 2 (r1): " in tree
    assert '<td class="number good">' not in tree
    assert ">agrees</td>" in tree


@needs_chromium
@pytest.mark.slow
def test_a_browser_shows_what_is_away(tmp_path: Path) -> None:
    """And which task is not there."""
    home = tmp_path / "home"
    home.mkdir()
    with served(home, AUREON_BROKERS="127.0.0.1:1") as there:
        there.ask("/cluster.json")
        dom = dom_of(f"{there.url}/?topic=math&logical_id=x", tmp_path / "profile")
    assert "no Kafka answers at 127.0.0.1:1" in dom
    assert dom.count("no lake at") >= 2  # at the head, and where the task would be
    assert "No cell has been heard of" in dom
