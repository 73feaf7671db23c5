"""`aureon completion`: what a person gets who types in a shell and presses TAB."""

import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from flows.commands.arguments import make_parser
from tests.aureon_command import aureon

READY = "ready> "
LINES = {
    "sche\tnode_cap\t": "<schema><node_capabilities>",
    "run --until-i\t3 --kafka-c\tx": "<run><--until-idle><3><--kafka-config><x>",
    "replay re-d\t--run x": "<replay><re-decide><--run><x>",
    "run --log-format j\t--log-level wa\t": "<run><--log-format><json><--log-level><warning>",
    "run --key-file clus\t": "<run><--key-file><cluster.key>",
    "submit tas\t": "<submit><tasks.jsonl>",
    "merge oth\t": "<merge><other>",
}
"""By what is typed, what the command is called with then."""
SHELLS = {
    "bash": (["bash", "--noprofile", "--norc", "-i"], "bind 'set bell-style none'; source {script}"),
    "zsh": (
        ["zsh", "-f", "-i"],
        # a TAB with more behind it is one for all that; else it would be a letter of a pasted text
        "zstyle ':completion:*' insert-tab false; fpath=({folder} $fpath); autoload -U compinit; compinit -u -D",
    ),
}


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, command: list[str], cwd: Path) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "TERM": "dumb", "PS1": READY, "PROMPT": READY}
        self._terminal, its_end = pty.openpty()
        self._shell = subprocess.Popen(  # in C: to fork Python beside threads, and run more of it, may stand still
            ["/usr/bin/env", "setsid", "--ctty", *command],
            cwd=cwd,
            env=environment,
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
        )
        os.close(its_end)
        self.read(READY)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._terminal, text.encode())

    def read(self, end: str, limit_s: float = 20.0) -> str:
        """Read what is on the screen up to a text."""
        seen, deadline = "", time.monotonic() + limit_s
        while end not in seen:
            if not select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"{end!r} did not come: {seen!r}")
            seen += os.read(self._terminal, 4096).decode(errors="replace")
        return seen

    def close(self) -> None:
        """End the shell."""
        self._shell.kill()
        self._shell.wait()
        os.close(self._terminal)


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes(shell: str, tmp_path: Path) -> None:
    """Commands, flags, choices, files and folders, as far as they are told apart."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    folder = tmp_path / "work"
    (folder / "other").mkdir(parents=True)
    for name in ("cluster.key", "tasks.jsonl"):
        (folder / name).touch()
    script = tmp_path / "_aureon"
    script.write_text(aureon("completion", shell, cwd=tmp_path).stdout)
    command, prepare = SHELLS[shell]
    terminal = Terminal(command, folder)
    try:
        terminal.type(prepare.format(script=script, folder=tmp_path) + "\n")
        terminal.type("aureon() { printf 'called: '; printf '<%s>' \"$@\"; echo ' end'; }\n")
        terminal.type("echo set-up\n")
        terminal.read("\nset-up")
        for typed, called in LINES.items():
            terminal.type(f"aureon {typed}\n")
            told = re.findall(r"called: (.*?) end", terminal.read(" end"))
            assert [line.replace("/>", ">") for line in told] == [called], typed
    finally:
        terminal.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_every_command_and_flag_is_in_it(shell: str, tmp_path: Path) -> None:
    """Also in those that no test types into."""
    done = aureon("completion", shell, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (commands,) = (action.choices for action in make_parser()._actions if action.dest == "command")
    assert commands is not None
    for command in commands:
        assert re.search(rf"\b{command}\b", done.stdout), command
    assert "until-idle" in done.stdout


def test_a_shell_that_it_does_not_know_is_refused(tmp_path: Path) -> None:
    """With those that it knows."""
    done = aureon("completion", "cmd", cwd=tmp_path)
    assert done.returncode == 2
    assert "bash" in done.stderr
