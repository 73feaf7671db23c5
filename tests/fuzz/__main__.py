"""Fuzz one target: guided by coverage with atheris, where that is installed; by chance elsewhere.

    python -m tests.fuzz                         all targets, a minute each
    python -m tests.fuzz task --seconds 300      one of them

Inputs that reach more of the decoders are added to the corpus while it is small; one that breaks its target ends the
run with its error, and is added too, so that `make test` fails until the decoder is mended.
"""

import argparse
import contextlib
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fuzz import corpus
from tests.fuzz.limits import TooSlowError, run
from tests.fuzz.mutate import json_mutant

INSTRUMENTED_S = 10.0
"""Coverage costs time; what takes longer than a second without it is found when the corpus is replayed."""
MOST_KEPT = 60
"""Inputs of a target, so that the corpus can be read."""
_ANSWERS = ("connectors.nodes.final_answer", "connectors.nodes.quantities", "connectors.nodes.signals")
_FORMULAS = ("flows.comparing.equivalence", "flows.comparing.formulas", "flows.comparing.points")
_LEARNED = ("flows.affinity", "flows.outlook", "flows.accepted", "flows.branched", "flows.supervision.health")
WATCHED: Mapping[str, tuple[str, ...]] = {
    "task": ("schemas.task", "schemas.ids", "schemas.blob", "flows.steps.intake", "flows.overflow", "connectors.blobs"),
    "nodes_file": ("connectors.nodes.nodes_file", "connectors.toml_file", "flows.prompts", "tomllib"),
    "branching_file": ("flows.branching", "flows.prompts", "flows.patterns", "connectors.toml_file", "tomllib"),
    "supervision_file": ("flows.supervision", "flows.patterns", "connectors.toml_file", "tomllib"),
    "gate_file": ("one_lake.gate",),
    "settings": ("flows.settings", "flows.policies", "flows.steps.route", "one_lake.as_of", "one_lake.criteria"),
    "command_line": ("flows.commands.arguments", "flows.settings"),
    "openai_answer": ("connectors.nodes.openai", *_ANSWERS),
    "http_header": ("connectors.nodes.openai", "email"),
    "http_reply": ("connectors.nodes.openai", "aiohttp"),
    "decision": ("schemas.decision", "flows.steps.derive"),
    "cut": ("flows.cut",),
    "broadcast": ("connectors.cancels", "flows.orders", "flows.affinity", "flows.counts", "flows.votes"),
    "learned": (*_LEARNED, "flows.counts", "flows.votes", "flows.root", "flows.registry"),
    "state_file": ("flows.cluster", "one_lake.keys", "connectors.sandbox"),
    "ledger": ("connectors.ledger", "connectors.owner_index"),
    "lake_file": ("one_lake.seals", "one_lake.keys", "one_lake.runs"),
    "lines": ("flows.evaluation", "flows.commands.submit", "flows.replays.report", "schemas.task"),
    "answer_text": (*_ANSWERS, *_FORMULAS),
    "comparison": (*_FORMULAS, "connectors.nodes.quantities", "connectors.nodes.solvers.expressions"),
    "supervised": ("flows.supervision",),
    "prompt": ("connectors.nodes.solvers.reading", "connectors.nodes.solvers.expressions"),
}
"""Whose coverage guides a target: to watch all would take minutes before it begins."""


def main() -> int:
    """Fuzz, and tell what came of it."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description="Fuzz the decoders of what comes from outside.")
    parser.add_argument("target", nargs="?", help="one of them (default: all, one after the other)")
    parser.add_argument("--seconds", type=int, default=60, help="how long each is fuzzed (default: 60)")
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    guided = importlib.util.find_spec("atheris") is not None
    if options.folder is not None:
        _fuzz_guided(options.target, options.seconds, options.folder)
        return 0
    names = [options.target] if options.target else list(WATCHED)
    if unknown := set(names) - set(WATCHED):
        parser.error(f"no target {min(unknown)!r}; there are: {', '.join(WATCHED)}")
    broken = [name for name in names if not (_guided if guided else _by_chance)(name, options.seconds)]
    print(f"broken: {', '.join(broken)}" if broken else f"{len(names)} targets, none broken")
    return 1 if broken else 0


# -- guided by coverage ----------------------------------------------------------------------------------------------


def _guided(name: str, seconds: int) -> bool:
    """Fuzz in a process of its own, which libFuzzer ends as it likes; then keep what is worth it."""
    with tempfile.TemporaryDirectory(prefix="aureon-fuzz-") as text:
        folder = Path(text)
        known = corpus.read(name)
        for part in ("corpus", "found"):
            (folder / part).mkdir()
        for number, data in enumerate(known):
            (folder / "corpus" / str(number)).write_bytes(data)
        command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(seconds), "--in", text]
        log = folder / "log"
        with log.open("wb") as out:
            code = subprocess.run(command, stdout=out, stderr=out, check=False).returncode
        told = log.read_text(errors="replace").splitlines()
        runs = next((line.split()[-1] for line in told if line.startswith("stat::number_of_executed_units")), "?")
        new = {path.read_bytes() for path in (folder / "corpus").iterdir()} - set(known)
        broke = [path.read_bytes() for path in (folder / "found").iterdir() if not path.name.startswith("slow")]
        room = max(0, MOST_KEPT - len(known))
        corpus.write(name, [*known, *broke, *sorted(new, key=len)[:room]])
        print(f"{name}: {runs} runs, {len(new)} new inputs reach more, {len(broke)} break it", flush=True)
        if code or broke:
            print("\n".join(told[-40:]))
        return not code and not broke


def _fuzz_guided(name: str, seconds: int, folder: Path) -> None:
    """In the process that libFuzzer owns."""
    import atheris  # noqa: PLC0415 - it takes over the process

    with atheris.instrument_imports(include=[*WATCHED[name]], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - under watch
    target = TARGETS[name]

    def one(data: bytes) -> None:
        run(target, bytes(data), INSTRUMENTED_S)

    def mutant(data: bytes, longest: int, seed: int) -> Any:
        made = json_mutant(data, longest, seed) if seed % 2 else None
        return atheris.Mutate(data, longest) if made is None else made

    limits = [f"-max_total_time={seconds}", "-print_final_stats=1", f"-artifact_prefix={folder}/found/"]
    options = ["-max_len=4096", "-timeout=60", "-rss_limit_mb=3000"]
    atheris.Setup(["fuzz", *options, *limits, str(folder / "corpus")], one, custom_mutator=mutant)
    atheris.Fuzz()


# -- by chance -------------------------------------------------------------------------------------------------------


def _by_chance(name: str, seconds: int) -> bool:
    """Change inputs of the corpus at random, where there is no atheris to tell which change reached anything."""
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - as above

    target, known = TARGETS[name], corpus.read(name) or [b""]
    runs, until, chance = 0, time.monotonic() + seconds, random.Random(os.urandom(8))
    while time.monotonic() < until:
        data = chance.choice(known)
        made = json_mutant(data, corpus.LONGEST, chance.getrandbits(32)) if chance.random() < 0.5 else None
        data = made if made is not None else _shuffled(data, chance)
        runs += 1
        try:
            run(target, data)
        except (Exception, TooSlowError):  # noqa: BLE001 - whatever broke is what is looked for
            traceback.print_exc()
            corpus.write(name, [*corpus.read(name), data])
            print(f"{name}: broken by {data[:200]!r} after {runs:,} runs")
            return False
    print(f"{name}: {runs:,} runs by chance, nothing broke")
    return True


def _shuffled(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(made) + 1)
        end = at + chance.randint(0, 3)
        made[at:end] = chance.choice([b"", chance.randbytes(1), bytes(made[at:end]) * 2, b"\0", b'"', b"[" * 50])
    return bytes(made[: corpus.LONGEST])


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
