"""The arguments of all commands, and the settings that are among them.

They are described here and not with each command, so that `aureon --help` imports none: it costs no Kafka, no lake, no
dataflow.
"""

import argparse
import re
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from flows.settings import PREFIX, Settings, read_settings
from flows.terminal import show

MOST: Final = 1_000_000_000
"""Of whatever is counted or waited for."""

_SETTING = "setting_"
"""Settings are told from a command's own arguments by this prefix."""

_EVERYTHING = tuple(Settings.__struct_fields__)
_KAFKA = ("home", "brokers", "kafka_config")


def make_parser() -> argparse.ArgumentParser:
    """Describe all commands and their arguments."""
    parser = _Parser(
        prog="aureon",
        description="Refine tasks with many models until they converge, on Kafka and Bytewax, into a lake that "
        "anybody can query.",
        epilog="`aureon COMMAND --help` tells all of one command. Every setting is also an environment variable.",
    )
    parser.add_argument("--version", action=_Version, help="show the version and end")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _demo(commands)
    _run_command(commands)
    _up(commands)
    _supervise(commands)
    _broker(commands)
    _submit(commands)
    _cancel(commands)
    _status(commands)
    _top(commands)
    _ui(commands)
    _nodes(commands)
    _sql(commands)
    _search(commands)
    _verify(commands)
    _audit(commands)
    _maintain(commands)
    _merge(commands)
    _keys(commands)
    _replay(commands)
    _eval(commands)
    _schema(commands)
    _completion(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: that costs more than all the rest of the help."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from schemas.software import software_version  # noqa: PLC0415

        show(software_version())
        parser.exit()


def _demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="refine some 2,000 real tasks on this machine, and see how right the results are",
        description="Start a broker, submit real tasks of reasoning-gym, refine them until each has ended, and show "
        "how many are right by reasoning-gym's own verifier, which the flow never calls. Run again, it goes on where "
        "it stood; all it makes is in its home, .aureon/demo unless --home says otherwise.",
    )
    demo.add_argument(
        "--tasks", type=_positive, metavar="N", help="how many tasks (default: as last time, or 2100; with --llm 210)"
    )
    demo.add_argument("--seed", type=_whole, metavar="N", help="which tasks (default: as last time, or 0)")
    demo.add_argument(
        "--llm", action="store_true", help="ask a small language model in this process beside the solvers (SmolLM2)"
    )
    demo.add_argument("--fresh", action="store_true", help="forget the demo so far and start over")
    demo.add_argument(
        "--compare", action="store_true", help="the same tasks under several policies, from the start, in one table"
    )
    _logging_flags(demo)
    _settings_flags(demo, [name for name in _EVERYTHING if name not in ("state", "lake", "blobs", "key_file")])


def _run_command(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="run a cell: tasks from Kafka, refined until they converge, into the lake",
        description="Run a cell in this process until it is asked to stop. Ctrl-C or SIGTERM: hand nothing new out, "
        "wait for the calls in flight, commit, end with 0. Again: do not wait for the calls. A third time: end.",
    )
    _until_idle(run)
    _logging_flags(run)
    _settings_flags(run, _EVERYTHING)


def _up(commands: Any) -> None:
    up = commands.add_parser(
        "up",
        help="run a cluster on this machine: several cells, a root, and the embedded broker where no other is named",
        description="Run several cells and the supervision root under supervisord, which starts those again that die, "
        "with a broker where AUREON_BROKERS names no other. State folders and logs are in <home>/cells. On a Kafka of "
        "yours they share the lanes with cells of other machines, started there by `aureon run`: one root is enough. "
        "Ctrl-C or SIGTERM: the cells stop gracefully, then "
        "the root and the broker. Again: the cells do not wait for their calls. A program that is refused again and "
        "again, or does not stay alive, ends it all.",
    )
    up.add_argument("--cells", type=_positive, default=3, metavar="N", help="how many cells (default: 3)")
    _until_idle(up)
    _logging_flags(up)
    _settings_flags(up, [name for name in _EVERYTHING if name not in ("state", "cell")])


def _until_idle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--until-idle",
        type=_seconds,
        metavar="SECONDS",
        help="stop when nothing was decided and nothing was waiting for so long",
    )


def _supervise(commands: Any) -> None:
    supervise = commands.add_parser(
        "supervise",
        help="run the supervision root: who is there, which nodes answer noise, what is known of them",
        description="Run the supervision root in this process until it is asked to stop. It hears the cells, reads all "
        "decisions, keeps nodes that answer wrong where others answer right out of a topic until they are fit again, "
        "tells every cell what the whole cluster has learned of the models, and notes it all in the lake (SELECT * "
        "FROM supervision). One is enough; while it is down the cells go on with what it said last. Its state folder "
        "is <home>/root unless --state says otherwise.",
    )
    _logging_flags(supervise)
    _settings_flags(supervise, (*_KAFKA, "lanes", "replication", "state", "lake", "drain_s", "metrics", "log_format"))


def _broker(commands: Any) -> None:
    broker = commands.add_parser(
        "broker",
        help="run the embedded broker in the foreground",
        description="Run the embedded Kafka broker of a home folder until Ctrl-C, on 127.0.0.1. It is for development "
        "and demos; `aureon run` and `aureon demo` start it themselves where AUREON_BROKERS names no other.",
    )
    _logging_flags(broker)
    _settings_flags(broker, ("home",))


def _submit(commands: Any) -> None:
    submit = commands.add_parser(
        "submit",
        help="send tasks to Kafka, one JSON object a line",
        description="Read tasks, one JSON object a line as `aureon schema task` describes them; send them to Kafka. "
        "A bad line is reported by its number and the others are sent; then the exit code is 1. What is reported as "
        "submitted is confirmed by the broker. Submitting the same task again is harmless: its id is the same.",
    )
    submit.add_argument("file", nargs="?", metavar="FILE", help="a file of JSON lines, or - for standard input")
    submit.add_argument(
        "--from-one",
        metavar="QUERY",
        help="instead of a file: a query over the lake, whose rows are tasks. Its columns are a task's fields; "
        "`sources`, a list of (topic, logical_id), names the records that the task is made from; all others are the "
        "payload: SELECT topic, 'Is it right? ' || answer AS prompt, [(topic, logical_id)] AS sources FROM one",
    )
    _as_of(submit)
    submit.add_argument("--topic", metavar="TOPIC", help="the topic of tasks that name none")
    submit.add_argument("--json", action="store_true", help="print the summary as JSON")
    _logging_flags(submit)
    _settings_flags(submit, (*_KAFKA, "lanes", "replication", "max_task_bytes", "lake", "blobs", "blob_bytes"))


def _cancel(commands: Any) -> None:
    cancel = commands.add_parser(
        "cancel",
        help="end a task with all its rounds and branches",
        description="End a task, and all that comes of it, waiting or under way: calls that run are abandoned, and "
        "each gets the decision `cancelled`. It holds over restarts, and for a task that is sent later. What has "
        "converged already stays as it is.",
    )
    cancel.add_argument("topic", metavar="TOPIC", help="the topic of the task")
    cancel.add_argument("logical_id", metavar="LOGICAL_ID", help="its logical id; that of a branch ends the branch")
    _logging_flags(cancel)
    _settings_flags(cancel, (*_KAFKA, "lanes", "replication"))


def _status(commands: Any) -> None:
    status = commands.add_parser(
        "status",
        help="show what is waiting, under way, converged and dead",
        description="Show what Kafka and the lake know of the work, whether a cell runs or not. Kafka's figures are as "
        "of the last commit, those of the lake as of its last commit: a few seconds old while a cell runs.",
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.add_argument(
        "--watch",
        nargs="?",
        const=2.0,
        type=_seconds,
        metavar="SECONDS",
        help="show it again every 2 (or so many) seconds",
    )
    _logging_flags(status)
    _settings_flags(status, (*_KAFKA, "state", "lake", "group"))


def _top(commands: Any) -> None:
    top = commands.add_parser(
        "top",
        help="watch the cluster on this terminal",
        description="Show the cluster, again and again, until `q` or Ctrl-C: its cells with their lanes and decisions "
        "a second, throughput by topic, convergence by round, nodes, what waits, and the root's last alerts. While the "
        "broker or the lake is away it says so, and goes on trying. Elsewhere than on a terminal it prints one view.",
    )
    top.add_argument(
        "--every", type=_seconds, default=1.0, metavar="SECONDS", help="how often it looks at Kafka (default: 1)"
    )
    top.add_argument("--json", action="store_true", help="print one view as a JSON object")
    _logging_flags(top)
    _settings_flags(top, (*_KAFKA, "lake", "blobs", "group"))


def _ui(commands: Any) -> None:
    ui = commands.add_parser(
        "ui",
        help="show the cluster, and the rounds and branches of each task, in a browser",
        description="Serve a page, until Ctrl-C, that only reads: cells and nodes, throughput over time, convergence "
        "by round, affinities of nodes and topics, and any task with its rounds, answers and branches. Nobody is asked "
        "who he is: on another address than 127.0.0.1, whoever reaches the port sees questions and answers.",
    )
    ui.add_argument(
        "--listen",
        default="127.0.0.1:8600",
        metavar="HOST:PORT",
        help="where; PORT alone is on 127.0.0.1, and 0 any that is free (default: 127.0.0.1:8600)",
    )
    _logging_flags(ui)
    _settings_flags(ui, (*_KAFKA, "lake", "blobs", "group"))


def _nodes(commands: Any) -> None:
    nodes = commands.add_parser(
        "nodes",
        help="ask the nodes how they are",
        description="Ask each node which models it has, without a call to a model, and show which of them answer and "
        "how fast. The exit code is 1 when one does not answer, or lacks a model that it is configured with.",
    )
    nodes.add_argument("action", choices=("check",), help="check: ask each node, all at once, for 5 s at most")
    nodes.add_argument("--json", action="store_true", help="print a JSON array with one object a node")
    _logging_flags(nodes)
    _settings_flags(nodes, ("nodes",))


def _sql(commands: Any) -> None:
    sql = commands.add_parser(
        "sql",
        help="ask the lake a question in SQL",
        description="Run a query of DuckDB's SQL over the lake, also while a cell writes to it. Views: one (the record "
        "of each task), rounds, outcomes, branches, dead_letters, answers, nodes, agreement, costs, sources, "
        "supervision, weights, conflicts, superseded; and the table functions lineage('<logical id>') and "
        "run('<replay>').",
    )
    sql.add_argument("query", metavar="QUERY", help="the query, or - to read it from standard input")
    sql.add_argument("--json", action="store_true", help="print a JSON array with one object a row")
    _as_of(sql)
    _logging_flags(sql)
    _settings_flags(sql, ("home", "lake", "blobs"))


def _search(commands: Any) -> None:
    search = commands.add_parser(
        "search",
        help="find records by their words, or by what they mean",
        description='Find records whose question or answer has all the words: those in "quotes" beside each other, '
        "word* by its beginning. The index, in the lake's folder, is brought up to date first.",
    )
    search.add_argument("text", metavar="TEXT", help="the words")
    search.add_argument("--similar", action="store_true", help="by meaning; needs the extra `embeddings`")
    search.add_argument("--topic", metavar="TOPIC", help="of this topic only")
    search.add_argument("--limit", type=_positive, default=10, metavar="N", help="so many at most (default: 10)")
    search.add_argument("--index", metavar="FILE", help="where the index is, if not in the lake's folder")
    search.add_argument("--json", action="store_true", help="print a JSON array with one object a record")
    _as_of(search)
    _logging_flags(search)
    _settings_flags(search, ("home", "lake", "blobs"))


def _as_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--as-of",
        metavar="MOMENT",
        help="the lake as it was: at a version of `rounds` (42), or at a time (2026-11-27T15:00, UTC; …+01:00)",
    )


def _verify(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="prove that the lake is what was written to it",
        description="Check every hash, chain, signature and link of the lake, also while a cell writes to it. For each "
        "kind of fault the first record is named, and the exit code is 1. A lake whose tail was cut off, or that was "
        "written anew with another key, is whole in itself: --head and --key tell.",
    )
    verify.add_argument(
        "--head",
        nargs="?",
        const="kafka",
        metavar="HEAD",
        help="what the lake has to hold: what the cells told on Kafka (without a value), a file with the output of "
        "`aureon verify --json`, or the hash",
    )
    verify.add_argument(
        "--key",
        action="append",
        metavar="NAME",
        help="trust this key, and those that follow on it, and no other; may be given again (default: all of the lake)",
    )
    _as_of(verify)
    verify.add_argument("--check-blobs", action="store_true", help="look at what is in the blob store, too")
    verify.add_argument("--json", action="store_true", help="print all that was found as one JSON object")
    _logging_flags(verify)
    _settings_flags(verify, (*_KAFKA, "lake", "blobs"))


def _audit(commands: Any) -> None:
    audit = commands.add_parser(
        "audit",
        help="judge the whole lake by Great Expectations, and write its pages",
        description="Run a deeper suite of Great Expectations over all of the lake: profiles of each topic and of the "
        "lake, and the newest records one by one. What is not as expected is told, and the exit code is 1; Great "
        "Expectations' own pages, Data Docs, show all of it.",
    )
    audit.add_argument("--docs", metavar="FOLDER", help="where the pages go (default: <home>/audit)")
    _as_of(audit)
    audit.add_argument("--json", action="store_true", help="print all that was found as one JSON object")
    _logging_flags(audit)
    _settings_flags(audit, ("home", "lake", "blobs"))


def _maintain(commands: Any) -> None:
    maintain = commands.add_parser(
        "maintain",
        help="put the lake's small files together, and delete what nobody needs",
        description="Put small files together, sorted by logical id, with bloom filters; write checkpoints; delete "
        "expired entries of the log, whose seals are kept, and files that no version within the retention has and no "
        "writer holds. Cells may write and people may read meanwhile. One process does so at a time.",
    )
    maintain.add_argument(
        "--every", type=_seconds, metavar="SECONDS", help="do it again and again, so many seconds apart, until stopped"
    )
    maintain.add_argument(
        "--retention-h",
        type=_hours,
        default=168.0,
        metavar="HOURS",
        help="a file that no version has any more stays so long, for queries that still read it (default: 168)",
    )
    maintain.add_argument(
        "--target-mb", type=_positive, default=128, metavar="MB", help="about so large become the files (default: 128)"
    )
    maintain.add_argument("--json", action="store_true", help="print a JSON array with one object a table")
    _logging_flags(maintain)
    _settings_flags(maintain, ("home", "state", "lake"))


def _merge(commands: Any) -> None:
    merge = commands.add_parser(
        "merge",
        help="take all that another lake has",
        description="Take the rows, blobs and keys of another lake, that of a cluster that went on apart for example. "
        "It is verified first, and only read. Where both have a record of one id, the criteria say which stays; the "
        "other one moves to the table `superseded`. Merged again, nothing more changes; after a kill, it goes on. "
        "Cells may write meanwhile.",
    )
    merge.add_argument("other", metavar="LAKE", help="the folder of the other lake")
    merge.add_argument(
        "--by",
        metavar="CRITERIA",
        help="which record stays: these are compared one after the other, separated by commas; the better supervision "
        "verdict and evidence, the more votes behind the answer, the higher score, the later one (default: "
        "supervision,evidence,weight,score,freshness)",
    )
    merge.add_argument(
        "--other-blobs", metavar="STORE", help="the other lake's blob store (default: `blobs` beside its folder)"
    )
    merge.add_argument("--json", action="store_true", help="print what was done as one JSON object")
    _logging_flags(merge)
    _settings_flags(merge, ("home", "state", "lake", "blobs"))


def _keys(commands: Any) -> None:
    keys = commands.add_parser(
        "keys",
        help="list the keys that sign the lake, or replace one's own",
        description="List the public keys of the lake. `rotate` makes a new key for a state folder, certified by the "
        "old one, so that whoever trusts that one trusts the new one; the old private key is gone then.",
    )
    keys.add_argument("action", nargs="?", choices=("list", "rotate"), default="list", help="default: list")
    keys.add_argument("--json", action="store_true", help="print a JSON array with one object a key")
    _logging_flags(keys)
    _settings_flags(keys, ("home", "state", "lake"))


def _replay(commands: Any) -> None:
    replay = commands.add_parser(
        "replay",
        help="decide past rounds again, or ask again, and compare; or send dead letters again",
        description="Decide the rounds of past tasks again from their recorded answers, by the policy, the supervision "
        "and the verifiers that the settings name now, where no model is asked; or ask the models that there are now. "
        "No broker is needed for that. What comes out is kept as a run beside the lake's tables, SELECT * FROM "
        "run('NAME'), and compared with what was. The same command goes on with a run that was cut off.",
    )
    replay.add_argument(
        "action",
        choices=("re-decide", "re-ask", "redrive", "report", "list"),
        help="re-decide: decide again; re-ask: ask the models that there are now; redrive: send dead letters back to "
        "Kafka, as the next generation of their id; report: tell again what a run came to; list: all runs",
    )
    replay.add_argument("--run", metavar="NAME", help="the run's name (default: the time)")
    replay.add_argument("--since", metavar="TIME", help="tasks of which a round was decided from this time on (UTC)")
    replay.add_argument("--until", metavar="TIME", help="and before that")
    replay.add_argument("--topic", action="append", metavar="TOPIC", help="of this topic; may be given again")
    replay.add_argument(
        "--select", metavar="QUERY", help="tasks that a query over the lake gives: SELECT topic, logical_id FROM one …"
    )
    replay.add_argument("--dead", action="store_true", help="tasks that ended as dead letters")
    replay.add_argument(
        "--verify-again", action="store_true", help="ask the verifiers again, and do not take their recorded word"
    )
    replay.add_argument(
        "--compare-again", action="store_true", help="compare expressions again, also where that took a proof"
    )
    replay.add_argument(
        "--truth", metavar="FILE", help="true answers, one JSON object a line: logical_id, truth, topic if need be"
    )
    replay.add_argument("--json", action="store_true", help="print the report as one JSON object")
    _logging_flags(replay)
    _settings_flags(
        replay,
        (
            *("home", "state", "lake", "blobs", "policy", "answer_value", "score_threshold", "max_rounds"),
            *("supervision", "verifiers", "sandbox_s", "sandbox_bytes", "symbolic_s", "text_similarity", "verifier_s"),
            *("nodes", "routing", "cascade_first", "cascade_agree", "max_attempts", "retry_delay_s", "call_tries"),
            *("call_backoff_s", "task_budget", "root_budget", "node_silence_s", "blob_bytes"),
            *("brokers", "kafka_config", "key_file", "lanes", "replication"),
        ),
    )


def _eval(commands: Any) -> None:
    evaluate = commands.add_parser(
        "eval",
        help="measure the ensemble on questions with known answers",
        description="Send questions with known answers through the steps of the flow, without a broker: learn from "
        "some, measure on the others, and tell how often the ensemble is right, beside the best single model and the "
        "plurality, and how far its confidence can be trusted. A line of FILE is a JSON object with `question` (or "
        "`prompt`, or `payload`) and `truth`; with `responses`, from model to text, no model is asked, otherwise each "
        "model of the nodes is, once. A bad line is reported by its number; then the exit code is 1.",
    )
    evaluate.add_argument("file", metavar="FILE", help="the questions, one JSON object a line")
    evaluate.add_argument(
        "--train",
        metavar="FILE",
        help="learn from this file, and measure all of the other (default: random halves of the one)",
    )
    evaluate.add_argument(
        "--splits", type=_positive, default=20, metavar="N", help="how many random halves (default: 20)"
    )
    evaluate.add_argument("--seed", type=_whole, default=0, metavar="N", help="which halves (default: 0)")
    evaluate.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    evaluate.add_argument("--picture", metavar="FILE", help="draw them into this file, as SVG")
    _logging_flags(evaluate)
    _settings_flags(evaluate, ("nodes", "score_threshold", "call_tries", "call_backoff_s", "node_silence_s"))


def _schema(commands: Any) -> None:
    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of what crosses a boundary",
        description="Print the JSON Schema (2020-12) of one of Aureon's structures; without a name, list them.",
    )
    schema.add_argument("name", nargs="?", metavar="NAME", help="which one, `task` for example")
    _logging_flags(schema)


def _completion(commands: Any) -> None:
    completion = commands.add_parser(
        "completion",
        help="print what makes a shell complete commands and flags",
        description="Print a script by which a shell completes commands, flags, choices and files. It is static: made "
        "anew after an upgrade, and no TAB starts Python. bash: aureon completion bash > "
        "~/.local/share/bash-completion/completions/aureon; zsh: into a file _aureon of a folder in $fpath; fish: "
        "~/.config/fish/completions/aureon.fish; tcsh: source it.",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish", "tcsh"), help="which shell")
    _logging_flags(completion)


def _logging_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tell more: the log at level info, progress in lines"
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="what goes to the log on stderr (default: warning)",
    )


def _settings_flags(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Make a flag of each setting; Settings itself tells what it is for and what it is by default."""
    hints, kinds = typing.get_type_hints(Settings, include_extras=True), typing.get_type_hints(Settings)
    group = parser.add_argument_group("settings", "a flag goes before its environment variable")
    wanted = set(names)
    for field in msgspec.structs.fields(Settings):
        if field.name not in wanted:
            continue
        metadata = getattr(hints[field.name], "__metadata__", ())
        description = next((m.description for m in reversed(metadata) if m.description), "")
        default = f"; default {field.default}" if field.default != "" else ""
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            dest=_SETTING + field.name,
            metavar=_metavar(field.name, kinds[field.name]),
            help=f"{description} [{PREFIX}{field.name.upper()}{default}]".replace("%", "%%"),
        )


def _metavar(name: str, kind: type) -> str:
    if name.endswith("_s"):
        return "SECONDS"
    return {int: "N", float: "X"}.get(kind, "TEXT")


def settings_of(options: argparse.Namespace, environment: dict[str, str] | None = None) -> Settings:
    """Gather the settings of a command: its flags before environment variables before defaults.

    Args:
        options: the command's arguments.
        environment: that of the process, if left out.

    Raises:
        RefusedError: a value is not what its setting takes.
    """
    return read_settings(flags_of(options), environment)


def flags_of(options: argparse.Namespace) -> dict[str, str | None]:
    """Which settings a command was given as flags, as they were written; None for those that were not."""
    return {name.removeprefix(_SETTING): value for name, value in vars(options).items() if name.startswith(_SETTING)}


def _positive(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 1 to {MOST:,}")
    return number


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,10}", text, re.ASCII) or abs(int(text)) > MOST:
        raise argparse.ArgumentTypeError(f"{text[:50]}: expected a whole number, {MOST:,} at most")
    return int(text)


def _seconds(text: str) -> float:
    return _above(text, 0, "seconds")


def _hours(text: str) -> float:
    return _above(text, 1, "hours")


def _above(text: str, least: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= MOST or not number:
        raise argparse.ArgumentTypeError(
            f"{text[:50]}: expected a number of {what} {f'from {least} on' if least else 'above 0'}, {MOST:,} at most"
        )
    return number
