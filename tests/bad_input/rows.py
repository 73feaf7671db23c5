"""The table. A message is whole, and as it is said; `{home}` stands for the folder where the command is called."""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from connectors.nodes import Failure
from tests.openai_server import Fault, disconnected, error, garbage, half_closed, rate_limited


class Row(Struct, frozen=True, kw_only=True):
    """One kind of bad input."""

    kind: str
    says: str
    """All of what is told."""


class Command(Row, frozen=True, kw_only=True):
    """Arguments of `aureon`, variables, and files that it reads."""

    arguments: str
    code: int = 2
    files: Mapping[str, bytes] = {}
    variables: Mapping[str, str] = {}
    stdin: bytes = b""
    on_broker: bool = False
    """With a broker; else without one."""


class Message(Row, frozen=True, kw_only=True):
    """A message on `tasks.global`; it becomes a dead letter, and says so there."""

    value: bytes


class Broadcast(Row, frozen=True, kw_only=True):
    """A message on another Kafka topic, which a running cell leaves out, with a word in its log."""

    kafka_topic: str
    key: bytes
    value: bytes


class Reply(Row, frozen=True, kw_only=True):
    """What a server of models answers a call with."""

    fault: Fault
    failure: Failure | None = None
    """Of which sort it is; None: the answer is an abstention, `says` why."""


class Damage(Row, frozen=True, kw_only=True):
    """A file of Aureon's own that is not what it was, and the command that finds it."""

    file: str
    damage: Callable[[bytes], bytes]
    arguments: str
    code: int = 2
    after: str = ""
    """What becomes of it beside the exit code."""


def _emptied(_data: bytes) -> bytes:
    """Leave nothing."""
    return b""


def _cut_off(data: bytes) -> bytes:
    """Leave the first half."""
    return data[: len(data) // 2]


def _overwritten(_data: bytes) -> bytes:
    """Write something else."""
    return b"\xff\xfe is nothing of Aureon's\n"


def _turned(data: bytes) -> bytes:
    """Turn the last bit, which a Parquet file has in its footer, whatever its columns are."""
    return data[:-1] + bytes([data[-1] ^ 1])


AWAY: Final = "--brokers 127.0.0.1:1"
NODE: Final = b'[[node]]\nid = "a"\nkind = "openai"\nurl = "http://127.0.0.1:1/v1"\nmodels = ["m"]\n'
RULE: Final = b'[[follow_up]]\nfrom = "physics"\nto = "math"\nprompt = "Check $answer"\n'


def _nodes(kind: str, text: bytes, says: str, **variables: str) -> Command:
    return Command(
        kind=kind,
        says=says,
        arguments="nodes check --nodes nodes.toml",
        files={"nodes.toml": text},
        variables=variables,
    )


def _supervision(kind: str, text: bytes, says: str) -> Command:
    return Command(
        kind=kind, says=says, arguments="run --supervision supervision.toml", files={"supervision.toml": text}
    )


def _branching(kind: str, text: bytes, says: str) -> Command:
    return Command(kind=kind, says=says, arguments="run --branching branching.toml", files={"branching.toml": text})


def _module(kind: str, arguments: str, text: bytes, says: str) -> Command:
    return Command(kind=kind, says=says, arguments=arguments, files={"mine.py": text})


def _variable(kind: str, name: str, value: str, says: str) -> Command:
    return Command(kind=kind, says=says, arguments="run", variables={name: value})


def _flag(kind: str, arguments: str, says: str, code: int = 2) -> Command:
    return Command(kind=kind, says=says, arguments=arguments, code=code)


def _lines(kind: str, text: bytes, says: str) -> Command:
    return Command(
        kind=kind, says=says, arguments="submit tasks.jsonl", files={"tasks.jsonl": text}, code=1, on_broker=True
    )


def _questions(kind: str, text: bytes, says: str, code: int = 2) -> Command:
    return Command(kind=kind, says=says, arguments="eval questions.jsonl", files={"questions.jsonl": text}, code=code)


def _message(kind: str, value: bytes, says: str) -> Message:
    return Message(kind=kind, says=says, value=value)


def _reply(kind: str, fault: Fault, failure: Failure | None, says: str) -> Reply:
    return Reply(kind=kind, says=says, fault=fault, failure=failure)


COMMANDS: Final[tuple[Command, ...]] = (
    _flag(
        "a command that there is not",
        "fly",
        says="aureon: error: argument COMMAND: invalid choice: 'fly' (choose from 'demo', 'run', 'up', 'supervise', 'broker', 'submit', 'cancel', 'status', 'top', 'ui', 'nodes', 'sql', 'search', 'verify', 'audit', 'maintain', 'merge', 'keys', 'replay', 'eval', 'schema', 'completion')",
    ),
    _flag("no command's argument", "run --max-round 3", says="aureon: error: unrecognized arguments: --max-round 3"),
    _flag(
        "a flag without its value",
        "run --max-rounds",
        says="aureon run: error: argument --max-rounds: expected one argument",
    ),
    _flag(
        "an argument that is missing",
        "cancel math",
        says="aureon cancel: error: the following arguments are required: LOGICAL_ID",
    ),
    _flag(
        "an action that there is not",
        "keys burn",
        says="aureon keys: error: argument action: invalid choice: 'burn' (choose from 'list', 'rotate')",
    ),
    _flag(
        "a word for a number",
        "run --max-rounds many",
        says="aureon: --max-rounds='many': expected a whole number from 1 to 1,000,000,000",
    ),
    _flag(
        "a number below the least",
        "run --max-rounds 0",
        says="aureon: --max-rounds='0': expected a whole number from 1 to 1,000,000,000",
    ),
    _flag(
        "a number beyond all bounds",
        "run --workers 99999999999999999999999",
        says="aureon: --workers='99999999999999999999999': expected a whole number from 1 to 256",
    ),
    _flag(
        "more lanes than there can be",
        "run --lanes 5000",
        says="aureon: --lanes='5000': expected a whole number from 0 to 150",
    ),
    _flag(
        "a share above 1",
        "run --score-threshold 1.5",
        says="aureon: --score-threshold='1.5': expected a number from 0 to 1",
    ),
    _flag(
        "a number that is none",
        "run --score-threshold nan",
        says="aureon: --score-threshold='nan': expected a number from 0 to 1",
    ),
    _flag(
        "a time without end",
        "run --retry-delay-s inf",
        says="aureon: --retry-delay-s='inf': expected a number from 0 to 1,000,000,000",
    ),
    _flag(
        "a fraction for a whole number",
        "run --snapshot-s 0.5",
        says="aureon: --snapshot-s='0.5': expected a whole number from 1 to 9,999",
    ),
    _flag(
        "a word that the setting does not have",
        "run --log-format xml",
        says="aureon: --log-format='xml': expected json or text",
    ),
    _flag(
        "a level that the log does not have",
        "run --log-level loud",
        says="aureon run: error: argument --log-level: invalid choice: 'loud' (choose from 'debug', 'info', 'warning', 'error')",
    ),
    _flag("an empty group", 'run --group ""', says="aureon: --group='': expected a text that is not empty"),
    _flag("an empty home", 'status --home ""', says="aureon: --home='': expected a text that is not empty"),
    _flag(
        "a cell beyond the number of cells",
        "run --cell 4/3",
        says="aureon: AUREON_CELL='4/3': expected i/n, such as 2/3 for the second of three cells",
    ),
    _flag(
        "an address without a port",
        "run --metrics nowhere",
        says="aureon: AUREON_METRICS='nowhere': expected PORT or HOST:PORT, such as 0.0.0.0:9464",
    ),
    _flag(
        "a port beyond the last one",
        "run --metrics 127.0.0.1:99999",
        says="aureon: AUREON_METRICS='127.0.0.1:99999': expected PORT or HOST:PORT, such as 0.0.0.0:9464",
    ),
    _flag(
        "a page's address that is none",
        "ui --listen nowhere",
        says="aureon: --listen='nowhere': expected PORT or HOST:PORT, such as 0.0.0.0:9464",
    ),
    _flag(
        "a time to be idle that is none",
        "run --until-idle soon",
        says="aureon run: error: argument --until-idle: soon: expected a number of seconds above 0, 1,000,000,000 at most",
    ),
    _flag(
        "an interval of nothing",
        "status --watch 0",
        says="aureon status: error: argument --watch: 0: expected a number of seconds above 0, 1,000,000,000 at most",
    ),
    _flag(
        "a number of cells that is none",
        "up --cells 0",
        says="aureon up: error: argument --cells: 0: expected a whole number from 1 to 1,000,000,000",
    ),
    _flag(
        "a seed that is no number",
        "demo --seed x",
        says="aureon demo: error: argument --seed: x: expected a whole number, 1,000,000,000 at most",
    ),
    _flag(
        "a retention that would take files from under a reader",
        "maintain --retention-h -1",
        says="aureon maintain: error: argument --retention-h: -1: expected a number of hours from 1 on, 1,000,000,000 at most",
    ),
    _flag(
        "a budget in words",
        "run --task-budget calls=many",
        says="aureon: AUREON_TASK_BUDGET='calls=many': calls: Expected int, got str; expected calls=N;tokens=N;cost=X, each of which may be left out",
    ),
    _flag(
        "a budget of what nobody counts",
        "run --task-budget cups=3",
        says="aureon: AUREON_TASK_BUDGET='cups=3': unknown field cups; there are: calls, tokens, cost; expected calls=N;tokens=N;cost=X, each of which may be left out",
    ),
    _flag(
        "a budget below nothing",
        "run --day-budget cost=-1",
        says="aureon: AUREON_DAY_BUDGET='cost=-1': cost: Expected float >= 0.0; expected calls=N;tokens=N;cost=X, each of which may be left out",
    ),
    _flag(
        "a routing that there is not",
        "run --routing best-0",
        says="aureon: AUREON_ROUTING='best-0': expected all, best-N with N from 1 on, or cascade",
    ),
    _flag(
        "a policy that there is not",
        "run --policy hope",
        says="aureon: AUREON_POLICY='hope': 'hope' is none; there are: threshold, value, verifier, stability, any(…, …), all(…, …), and module:callable",
    ),
    _flag(
        "a policy with a number that is none",
        "run --policy threshold(nan)",
        says="aureon: AUREON_POLICY='threshold(nan)': 'nan' is no number; there are: threshold, value, verifier, stability, any(…, …), all(…, …), and module:callable",
    ),
    _flag(
        "a policy whose parenthesis is left open",
        "run --policy any(verifier",
        says="aureon: AUREON_POLICY='any(verifier': ')' is missing; there are: threshold, value, verifier, stability, any(…, …), all(…, …), and module:callable",
    ),
    _flag(
        "a policy nested beyond reason",
        f"run --policy {'any(' * 30}",
        says="aureon: AUREON_POLICY='any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(any(': it is nested too deeply; there are: threshold, value, verifier, stability, any(…, …), all(…, …), and module:callable",
    ),
    _flag(
        "a module that there is not",
        "run --policy nowhere:Policy",
        says="aureon: AUREON_POLICY='nowhere:Policy': No module named 'nowhere'",
    ),
    _flag(
        "a function that its module has not",
        "run --nodes os:nodes",
        says="aureon: AUREON_NODES='os:nodes': module 'os' has no attribute 'nodes'",
    ),
    _flag(
        "nodes that are neither a function nor a file",
        "run --nodes nothing",
        says="aureon: AUREON_NODES='nothing': expected module:attribute, or a file nodes.toml",
    ),
    _flag(
        "a verifier that is no function",
        "run --verifiers os:sep",
        says="aureon: AUREON_VERIFIERS: os:sep is str, and no function",
    ),
    _flag(
        "a file of nodes that is not there",
        "nodes check --nodes nodes.toml",
        says="aureon: nodes.toml: No such file or directory; AUREON_NODES names it",
    ),
    _flag(
        "a file of supervision that is not there",
        "run --supervision supervision.toml",
        says="aureon: supervision.toml: No such file or directory; AUREON_SUPERVISION names it",
    ),
    _flag(
        "a file of branches that is not there",
        "run --branching branching.toml",
        says="aureon: branching.toml: No such file or directory; AUREON_BRANCHING names it",
    ),
    _flag(
        "a gate that is not there",
        "run --gate suite.json",
        says="aureon: AUREON_GATE='suite.json': No such file or directory; expected on, off, or a file with a suite",
    ),
    _flag(
        "a collector's address that is none",
        "run --traces nowhere",
        says="aureon: AUREON_TRACES: expected http:// or https:// and a host, as in http://127.0.0.1:4318",
    ),
    _flag(
        "a blob store that nothing installed knows",
        "run --blobs zzz://bucket",
        says="aureon: AUREON_BLOBS='zzz://bucket': Protocol not known: zzz",
    ),
    _flag(
        "a blob store with a password, that nothing installed knows",
        "run --blobs zzz://me:hunter2@bucket",
        says="aureon: AUREON_BLOBS='zzz://bucket': Protocol not known: zzz",
    ),
    _flag(
        "a broker where none is, for who needs one",
        f"cancel math euler-1 {AWAY}",
        code=1,
        says="aureon: no Kafka answers at 127.0.0.1:1 (127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused); set AUREON_BROKERS to the address of yours (host:port, several with commas), and security.protocol in AUREON_KAFKA_CONFIG where it wants TLS or SASL",
    ),
    _flag(
        "no broker at all",
        "submit -",
        says="aureon: no broker: set AUREON_BROKERS to the address of yours, or start the embedded one with `aureon broker --home .aureon` (`aureon run` starts it itself)",
    ),
    _flag(
        "a state folder that cannot be made",
        "run --state /proc/aureon",
        says="aureon: the state folder /proc/aureon cannot be made: No such file or directory; set AUREON_STATE or AUREON_HOME to another",
    ),
    _flag(
        "a cluster's key that is none",
        "run --key-file /dev/null",
        says="aureon: /dev/null: expected a key of 64 hex digits; copy it from another cell of this cluster",
    ),
    _flag(
        "a schema that there is not",
        "schema nothing",
        says="aureon: no schema 'nothing'; there are: task, branch, blob_reference, decision, round_result, dead_letter, call, answer, node_capabilities, node_state, node_health, nodes, task_status, round_id, record, round, branch_row, dead_letter_row, head",
    ),
    _flag(
        "no query", 'sql ""', says='aureon: no query; try: aureon sql "SELECT topic, count(*) FROM one GROUP BY topic"'
    ),
    _flag(
        "a query over no lake",
        'sql "SELECT 1"',
        says="aureon: no lake at {home}/.aureon/lake: run `aureon run` or set AUREON_LAKE",
    ),
    _flag(
        "a lake that is none",
        "verify --lake nowhere",
        says="aureon: no lake at {home}/nowhere: run `aureon run` or set AUREON_LAKE",
    ),
    _flag(
        "a head that is none",
        "verify --head nonsense",
        says="aureon: --head nonsense: expected nothing (then Kafka tells), a file, or a hash of 64 digits",
    ),
    _flag(
        "a lake to merge that is none",
        "merge nowhere",
        says="aureon: no lake at nowhere: name the folder of a lake, such as …/.aureon/lake",
    ),
    _flag(
        "a criterion that there is not",
        "merge nowhere --by luck",
        says="aureon: 'luck' is no criterion; there are: supervision, evidence, weight, score, freshness",
    ),
    _flag(
        "a run's name that leads elsewhere",
        "replay report --run ../elsewhere",
        says="aureon: '../elsewhere': expected letters, digits, dots, dashes and underscores, at most 100",
    ),
    _flag(
        "a run that there is not",
        "replay report --run night",
        says="aureon: no run 'night' of the lake .aureon/lake; `aureon replay list` lists them",
    ),
    _flag(
        "a report of no run in particular",
        "replay report",
        says="aureon: name the run: aureon replay report --run NAME; `aureon replay list` lists them",
    ),
    _flag(
        "a file of truths that is not there",
        "replay re-decide --truth truths.jsonl",
        says="aureon: --truth: truths.jsonl: No such file or directory",
    ),
    _flag(
        "a file of tasks that is not there", "submit tasks.jsonl", says="aureon: tasks.jsonl: No such file or directory"
    ),
    _flag("a folder for a file", "submit .", says="aureon: .: Is a directory"),
    _flag(
        "tasks from two places",
        "submit tasks.jsonl --from-one Q",
        says="aureon: expected a FILE of tasks, or --from-one with a query, and one of them only",
    ),
    _flag("an empty topic", 'submit - --topic ""', says="aureon: --topic: empty"),
    _flag(
        "a task without a name",
        'cancel math ""',
        says="aureon: expected a topic and a logical id, and one of them is empty",
    ),
    _flag(
        "a file of questions that is not there",
        "eval questions.jsonl",
        says="aureon: questions.jsonl: No such file or directory",
    ),
    _variable(
        "a variable that is no setting",
        "AUREON_MAX_ROUND",
        "3",
        says="aureon: AUREON_MAX_ROUND is no setting of Aureon; `aureon run --help` lists them",
    ),
    _variable(
        "a word for a number, in a variable",
        "AUREON_MAX_ROUNDS",
        "drei",
        says="aureon: AUREON_MAX_ROUNDS='drei': expected a whole number from 1 to 1,000,000,000",
    ),
    _variable(
        "an empty name of nodes",
        "AUREON_NODES",
        "",
        says="aureon: AUREON_NODES='': expected module:attribute, or a file nodes.toml",
    ),
    _variable(
        "an empty policy",
        "AUREON_POLICY",
        "",
        says="aureon: AUREON_POLICY='': a name is missing; there are: threshold, value, verifier, stability, any(…, …), all(…, …), and module:callable",
    ),
    _variable(
        "half of a password, since it has a semicolon",
        "AUREON_KAFKA_CONFIG",
        "sasl.password=hun;ter2",
        says="aureon: AUREON_KAFKA_CONFIG, part 2: expected key=value, and there is no `=` behind a key; a value with a semicolon in it needs a file (@FILE)",
    ),
    _variable(
        "a property that librdkafka has not",
        "AUREON_KAFKA_CONFIG",
        "no.such.property=1",
        says='aureon: AUREON_KAFKA_CONFIG: No such configuration property: "no.such.property"',
    ),
    _variable(
        "a property with a wrong value beside a password",
        "AUREON_KAFKA_CONFIG",
        "sasl.password=hunter2;security.protocol=FOO",
        says='aureon: AUREON_KAFKA_CONFIG: Invalid value "FOO" for configuration property "security.protocol"',
    ),
    _variable(
        "a property that the guarantees rest on",
        "AUREON_KAFKA_CONFIG",
        "acks=0",
        says="aureon: Kafka setting 'acks' is Aureon's own, its guarantees rest on it; leave it out",
    ),
    _variable(
        "a file of properties that is not there",
        "AUREON_KAFKA_CONFIG",
        "@client.properties",
        says="aureon: AUREON_KAFKA_CONFIG: client.properties cannot be read: No such file or directory",
    ),
    Command(
        kind="a line of the file of properties without a =",
        says="aureon: client.properties:3: expected key=value, and there is no `=` behind a key",
        arguments="run",
        variables={"AUREON_KAFKA_CONFIG": "@client.properties"},
        files={"client.properties": b"sasl.username=me\n\nhunter2\n"},
    ),
    Command(
        kind="a file of properties that is no text",
        says="aureon: AUREON_KAFKA_CONFIG: client.properties cannot be read: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        arguments="run",
        variables={"AUREON_KAFKA_CONFIG": "@client.properties"},
        files={"client.properties": b"\xffsasl.password=hunter2\n"},
    ),
    Command(
        kind="a cluster's key of another length",
        says="aureon: cluster.key: expected a key of 64 hex digits; copy it from another cell of this cluster",
        arguments="run --key-file cluster.key",
        files={"cluster.key": b"00ff\n"},
        on_broker=True,
    ),
    _nodes(
        "an empty file of nodes",
        b"",
        says="aureon: nodes.toml: names no node; each is a table [[node]], with at least id, kind and models",
    ),
    _nodes(
        "a file of nodes that is no TOML",
        b"[[node]\n",
        says="aureon: nodes.toml: not TOML: Expected ']]' at the end of an array declaration (at line 1, column 7)",
    ),
    _nodes(
        "a file of nodes that is no text",
        b"\xff\xfe\x00",
        says="aureon: nodes.toml: not UTF-8: invalid start byte at byte 0",
    ),
    _nodes(
        "a file of nodes that is nested beyond reason",
        b"a = " + b"[" * 5000,
        says="aureon: nodes.toml: not TOML: nested too deeply",
    ),
    _nodes(
        "a field that nodes have not",
        NODE + b'colour = "red"\n',
        says="aureon: nodes.toml: node 'a': unknown field colour; there are: id, kind, url, key_env, models, topics, max_concurrency, adaptive, timeout_s, price_in, price_out, max_tokens, load_cost, weight, affinity, temperature, seed, options",
    ),
    _nodes(
        "a field without which there is no node",
        b"[[node]]\nid = 'a'\n",
        says="aureon: nodes.toml: node 'a': needs kind",
    ),
    _nodes(
        "two nodes of one id",
        NODE + NODE,
        says="aureon: nodes.toml: node 'a': id: another node has it too; each needs its own",
    ),
    _nodes(
        "an id with a line end",
        NODE.replace(b'"a"', b'"a\\n"'),
        says="aureon: nodes.toml: node 1: id: Expected letters, digits and any of . : @ / _ -, 100 at most",
    ),
    _nodes(
        "a kind of node that there is not",
        NODE.replace(b'"openai"', b'"clod"'),
        says="aureon: nodes.toml: node 'a': kind: 'clod' is none of openai, llm, solver, and no module:callable",
    ),
    _nodes(
        "no models",
        NODE.replace(b'["m"]', b"[]"),
        says='aureon: nodes.toml: node \'a\': models: name those that are to be asked, as in models = ["small", "large"]',
    ),
    _nodes(
        "a model for a list of models",
        NODE.replace(b'["m"]', b'"m"'),
        says="aureon: nodes.toml: node 'a': models: Expected array, got str",
    ),
    _nodes(
        "a URL of another kind",
        NODE.replace(b"http://127.0.0.1:1/v1", b"ftp://models"),
        says="aureon: nodes.toml: node 'a': url: Expected http:// or https:// and a host",
    ),
    _nodes(
        "a URL with a password",
        NODE.replace(b"127.0.0.1", b"me:hunter2@127.0.0.1"),
        says="aureon: nodes.toml: node 'a': url: holds a name or a password; put the key into an environment variable, and its name into key_env",
    ),
    _nodes(
        "a key where the name of its variable belongs",
        NODE + b'key_env = "sk-hunter2"\n',
        says="aureon: nodes.toml: node 'a': key_env: Expected the name of an environment variable, in capitals",
    ),
    _nodes(
        "a key that is not set",
        NODE + b'key_env = "PAID_KEY"\n',
        says="aureon: nodes.toml: node 'a': key_env: the environment variable PAID_KEY is not set; put the key into it",
    ),
    _nodes(
        "a key that no header can carry",
        NODE + b'key_env = "PAID_KEY"\n',
        PAID_KEY="hunter 2",
        says="aureon: nodes.toml: node 'a': key_env: what PAID_KEY holds is no key: it has letters that no header can carry",
    ),
    _nodes(
        "no seat for a call",
        NODE + b"max_concurrency = 0\n",
        says="aureon: nodes.toml: node 'a': max_concurrency: Expected int >= 1",
    ),
    _nodes(
        "a limit without end",
        NODE + b"timeout_s = inf\n",
        says="aureon: nodes.toml: node 'a': timeout_s: Expected a finite number",
    ),
    _nodes(
        "a price that is no number",
        NODE + b"price_in = nan\n",
        says="aureon: nodes.toml: node 'a': price_in: Expected float >= 0.0",
    ),
    _nodes(
        "an affinity above 1",
        NODE + b"affinity = {math = 2}\n",
        says="aureon: nodes.toml: node 'a': affinity.math: Expected float <= 1.0",
    ),
    _nodes(
        "a field of requests that is Aureon's own",
        NODE + b"options = {stream = true}\n",
        says="aureon: nodes.toml: node 'a': options.stream: each request has its own",
    ),
    _nodes(
        "a prompt that names what there is not",
        NODE + b'[prompts.math]\nfirst = "$quest"\n',
        says="aureon: nodes.toml: prompts.math: first: $quest is not known here; there are: $question, and $$ for a dollar sign",
    ),
    _nodes(
        "a prompt with a dollar sign",
        NODE + b'[prompts.math]\nfirst = "It costs $ 5"\n',
        says="aureon: nodes.toml: prompts.math: first: a $ that names nothing; there are: $question, and $$ for a dollar sign",
    ),
    _nodes(
        "a solver that there is not",
        b'[[node]]\nid = "s"\nkind = "solver"\nmodels = ["magic"]\n',
        says="aureon: nodes.toml: node 's': models: 'magic' is no solver; there are: symbolic, numeric, search",
    ),
    _module(
        "a module with a wrong syntax",
        "run --nodes mine:nodes",
        b"def nodes(:\n",
        says="aureon: AUREON_NODES='mine:nodes': SyntaxError: invalid syntax (mine.py, line 1)",
    ),
    _module(
        "a module that fails",
        "run --nodes mine:nodes",
        b"x = 1\ny = x.z()\n",
        says="aureon: AUREON_NODES='mine:nodes': AttributeError: 'int' object has no attribute 'z' (mine.py, line 2)",
    ),
    _module(
        "a module that lacks another",
        "run --nodes mine:nodes",
        b"import nowhere_to_be_found\n",
        says="aureon: AUREON_NODES='mine:nodes': No module named 'nowhere_to_be_found'",
    ),
    _module(
        "a function of nodes that fails",
        "run --nodes mine:nodes",
        b"def nodes():\n    return 1 / 0\n",
        says="aureon: AUREON_NODES='mine:nodes' cannot be called: ZeroDivisionError: division by zero (mine.py, line 2)",
    ),
    _module(
        "a function of nodes that gives something else",
        "run --nodes mine:nodes",
        b"def nodes():\n    return [1]\n",
        says="aureon: AUREON_NODES='mine:nodes': gave int, which has no `capabilities` of a node",
    ),
    _module(
        "a policy of one's own that fails",
        "run --policy mine:Mine",
        b"class Mine:\n    def __init__(self, settings):\n        self.least = settings.nothing\n",
        says="aureon: AUREON_POLICY='mine:Mine' cannot be made: AttributeError: 'Settings' object has no attribute 'nothing' (mine.py, line 3)",
    ),
    _module(
        "a policy of one's own that is none",
        "run --policy mine:Mine",
        b"class Mine:\n    def __init__(self, settings):\n        self.name = 'mine'\n",
        says="aureon: AUREON_POLICY='mine:Mine' gave Mine, which has no `name` or no `judge`",
    ),
    _supervision(
        "an empty file of supervision",
        b"",
        says="aureon: supervision.toml: names no policy; each is a table [[policy]], with at least a `use`",
    ),
    _supervision(
        "a policy without a name",
        b"[[policy]]\naction = 'flag'\n",
        says="aureon: supervision.toml: policy 1: needs use, a built-in or module:callable; there are: allow_list, score_sanity, empty_answer, runaway_length, answer_format, safety, injection, insults, bias, repetition, contradiction, budget, topic_health",
    ),
    _supervision(
        "a policy of supervision that there is not",
        b"[[policy]]\nuse = 'nothing'\n",
        says="aureon: supervision.toml: policy 1 (nothing): use: 'nothing' is no built-in policy, and no module:callable; there are: allow_list, score_sanity, empty_answer, runaway_length, answer_format, safety, injection, insults, bias, repetition, contradiction, budget, topic_health",
    ),
    _supervision(
        "an action that policies have not",
        b"[[policy]]\nuse = 'insults'\naction = 'shout'\n",
        says="aureon: supervision.toml: policy 1 (insults): action: 'shout' is none of accept, flag, more_reasoning, cap, reject, stop_topic",
    ),
    _supervision(
        "a field that a policy has not",
        b"[[policy]]\nuse = 'insults'\nmood = 'bad'\n",
        says="aureon: supervision.toml: policy 1 (insults): unknown field mood; there are: use, topics, action, cap, pause_s, also, allowed",
    ),
    _supervision(
        "a topic for a list of topics",
        b"[[policy]]\nuse = 'insults'\ntopics = 'support'\n",
        says='aureon: supervision.toml: policy 1 (insults): topics: Expected a list of names, as in topics = ["math"]',
    ),
    _supervision(
        "a pattern that is none",
        b"[[policy]]\nuse = 'answer_format'\npattern = '('\n",
        says="aureon: supervision.toml: policy 1 (answer_format): pattern: no regular expression: missing ), unterminated subpattern at position 0",
    ),
    _supervision(
        "a pattern that could take for ever",
        b"[[policy]]\nuse = 'answer_format'\npattern = '(?=(a+))b'\n",
        says="aureon: supervision.toml: policy 1 (answer_format): pattern: no regular expression as RE2 has them: invalid perl operator: (?=",
    ),
    _supervision(
        "a cap for what is not capped",
        b"[[policy]]\nuse = 'insults'\ncap = 0.5\n",
        says='aureon: supervision.toml: policy 1 (insults): cap: it is for action = "cap"',
    ),
    _supervision(
        "a classifier that there is not",
        b"[[policy]]\nuse = 'safety'\nclassifier = 'nowhere:classify'\n",
        says="aureon: supervision.toml: policy 1 (safety): classifier='nowhere:classify': No module named 'nowhere'",
    ),
    _branching(
        "an empty file of branches",
        b"",
        says="aureon: branching.toml: declares nothing; each rule is a table [[follow_up]], with at least from, to and prompt",
    ),
    _branching(
        "a rule without a prompt",
        b"[[follow_up]]\nfrom = 'a'\nto = 'b'\n",
        says="aureon: branching.toml: follow_up 1: needs prompt",
    ),
    _branching(
        "a field that rules have not",
        RULE + b"mood = 1\n",
        says="aureon: branching.toml: follow_up 1: unknown field mood; there are: from, to, prompt, when, answer_kind, priority, score",
    ),
    _branching(
        "evidence that there is not",
        RULE + b"when = {evidence = ['gut']}\n",
        says="aureon: branching.toml: follow_up 1: when.evidence[0]: 'gut' is none of verifier, cross-model, self, none",
    ),
    _branching(
        "a confidence above 1",
        RULE + b"when = {min_confidence = 2}\n",
        says="aureon: branching.toml: follow_up 1: when.min_confidence: Expected float <= 1.0",
    ),
    _branching(
        "a pattern that is none, of a rule",
        RULE + b"when = {matches = '('}\n",
        says="aureon: branching.toml: follow_up 1 (physics to math): when.matches: no regular expression: missing ), unterminated subpattern at position 0",
    ),
    _branching(
        "a prompt of a rule that names what there is not",
        RULE.replace(b"$answer", b"$solution"),
        says="aureon: branching.toml: follow_up 1 (physics to math): prompt: $solution is not known here; there are: $answer, $question, and $$ for a dollar sign",
    ),
    _branching(
        "a priority that there is not",
        RULE + b"priority = 77\n",
        says="aureon: branching.toml: follow_up 1: priority: Expected int <= 9",
    ),
    _branching(
        "a score that is no number",
        RULE + b"score = nan\n",
        says="aureon: branching.toml: follow_up 1: score: Expected float >= -1000000000.0",
    ),
    Command(
        kind="a suite that is no JSON",
        says='aureon: AUREON_GATE=\'suite.json\': no suite of Great Expectations: Input data was truncated; expected {"expectations": [{"type": "expect_…", "kwargs": {…}}]}',
        arguments="run --gate suite.json",
        files={"suite.json": b"{"},
    ),
    Command(
        kind="a suite without expectations",
        says='aureon: AUREON_GATE=\'suite.json\': no suite of Great Expectations: Object missing required field `expectations`; expected {"expectations": [{"type": "expect_…", "kwargs": {…}}]}',
        arguments="run --gate suite.json",
        files={"suite.json": b"{}"},
    ),
    Command(
        kind="a suite nested beyond reason",
        says='aureon: AUREON_GATE=\'suite.json\': no suite of Great Expectations: Expected `object`, got `array`; expected {"expectations": [{"type": "expect_…", "kwargs": {…}}]}',
        arguments="run --gate suite.json",
        files={"suite.json": b"[" * 100_000},
    ),
    Command(
        kind="truths of which one is none",
        says="aureon: truths.jsonl:2: Object missing required field `truth`",
        arguments="replay re-decide --truth truths.jsonl",
        files={"truths.jsonl": b'{"logical_id": "a", "truth": "1"}\n{"logical_id": "b"}\n'},
        code=1,
    ),
    Command(
        kind="a file of heads that is none",
        says="aureon: kept.json: no head of a lake: Expected `int`, got `str` - at `$.version`; `aureon verify --json` prints one",
        arguments="verify --head kept.json",
        files={"kept.json": b'{"head": {"version": "x"}}'},
    ),
    Command(
        kind="a file of heads that is no text",
        says="aureon: kept.json: no head of a lake: JSON is malformed: invalid character (byte 0)",
        arguments="verify --head kept.json",
        files={"kept.json": b"\xff\xfe"},
    ),
    _questions(
        "an empty file of questions",
        b"\n",
        says='aureon: questions.jsonl: it is empty; a line is {"question": "…", "truth": "…"}, with `responses` if recorded',
    ),
    _questions(
        "too few questions",
        b'{"question": "1+1", "truth": "2", "responses": {"m": "2"}}\n',
        says="aureon: questions.jsonl: 1 question is too few to learn from one half and measure on the other; give at least 4, or --train FILE",
    ),
    _questions(
        "a question without its truth",
        b'{"question": "1+1"}\n',
        says='questions.jsonl:1: needs `truth`, the known answer - at `$.truth`\naureon: questions.jsonl: no line of it is a question with a known answer; a line is {"question": "…", "truth": "…"}, with `responses` if recorded',
    ),
    _questions(
        "a kind of answer that there is not",
        b'{"question": "1+1", "truth": "2", "answer_kind": "colour"}\n',
        says='questions.jsonl:1: Invalid enum value \'colour\' - at `$.answer_kind`\naureon: questions.jsonl: no line of it is a question with a known answer; a line is {"question": "…", "truth": "…"}, with `responses` if recorded',
    ),
    _lines(
        "a line that is no JSON",
        b"topic: math\n",
        says="tasks.jsonl:1: not JSON: JSON is malformed: invalid character (byte 4)",
    ),
    _lines(
        "a line that ends too soon",
        b'{"topic": "math", "payload": {"prompt": "1\n',
        says="tasks.jsonl:1: not JSON: Input data was truncated",
    ),
    _lines("a line that is no object", b"[1, 2]\n", says="tasks.jsonl:1: Expected `object`, got `array`"),
    _lines(
        "a task without a topic",
        b'{"payload": {"prompt": "1+1"}}\n',
        says="tasks.jsonl:1: Object missing required field `topic`",
    ),
    _lines(
        "a task without a payload",
        b'{"topic": "math"}\n',
        says="tasks.jsonl:1: Object missing required field `payload`",
    ),
    _lines(
        "a task without a question",
        b'{"topic": "math", "payload": {}}\n',
        says="tasks.jsonl:1: empty: needs `prompt` (text) or `messages` (a list) - at `$.payload`",
    ),
    _lines(
        "a number where a text belongs",
        b'{"topic": "math", "payload": {"prompt": 1}}\n',
        says="tasks.jsonl:1: Expected `str | null`, got `int` - at `$.payload.prompt`",
    ),
    _lines(
        "a field that tasks have not",
        b'{"topic": "math", "payload": {"prompt": "1"}, "colour": "red"}\n',
        says="tasks.jsonl:1: Object contains unknown field `colour`",
    ),
    _lines(
        "a priority that tasks have not",
        b'{"topic": "math", "payload": {"prompt": "1"}, "priority": 12}\n',
        says="tasks.jsonl:1: Expected `int` <= 9 - at `$.priority`",
    ),
    _lines(
        "a tolerance of all",
        b'{"topic": "math", "payload": {"prompt": "1", "tolerance": 1}}\n',
        says="tasks.jsonl:1: Expected `float` < 1.0 - at `$.payload.tolerance`",
    ),
    _lines(
        "an id that is Aureon's to give",
        b'{"topic": "math", "logical_id": "a:branch-1", "payload": {"prompt": "1"}}\n',
        says="tasks.jsonl:1: 'a:branch-1' ends in `:r<n>` or `:branch-<n>`, which is reserved - at `$.logical_id`",
    ),
    _lines(
        "an id longer than ids are",
        b'{"topic": "math", "logical_id": "' + b"a" * 600 + b'", "payload": {"prompt": "1"}}\n',
        says="tasks.jsonl:1: longer than 512 bytes - at `$.logical_id`",
    ),
    _lines(
        "a cause that is claimed",
        b'{"topic": "math", "logical_id": "a", "task_id": "a:r0", "payload": {"prompt": "1"}, "cause": [0, 1, 0, "x"]}\n',
        says="tasks.jsonl:1: Aureon's own; leave it out - at `$.cause`",
    ),
    _lines(
        "a reference without an id",
        b'{"topic": "math", "payload": {"$blob": "sha256-' + b"0" * 64 + b'", "bytes": 7}}\n',
        says="tasks.jsonl:1: needed where the payload is a reference to a blob - at `$.logical_id`",
    ),
    _lines(
        "a reference that is none",
        b'{"topic": "math", "logical_id": "a", "payload": {"$blob": "sha256-12", "bytes": 7}}\n',
        says="tasks.jsonl:1: no reference to a blob: Expected `str` matching regex '^sha256-[0-9a-f]{64}$' - at `$.payload.$blob`",
    ),
)

MESSAGES: Final[tuple[Message, ...]] = (
    _message("an empty message", b"", says="tasks.global[0]@0: not JSON: Input data was truncated"),
    _message(
        "bytes that are no text",
        b"\xff\xfe\xfd",
        says="tasks.global[0]@1: not JSON: JSON is malformed: invalid character (byte 0)",
    ),
    _message(
        "a text that is no JSON",
        b"<task/>",
        says="tasks.global[0]@2: not JSON: JSON is malformed: invalid character (byte 0)",
    ),
    _message(
        "JSON that ends too soon",
        b'{"topic": "math", "payl',
        says="tasks.global[0]@3: not JSON: Input data was truncated",
    ),
    _message(
        "JSON with more behind it",
        b'{"topic": "math", "payload": {"prompt": "1"}}{}',
        says="tasks.global[0]@4: not JSON: JSON is malformed: trailing characters (byte 46)",
    ),
    _message("a list", b"[]", says="tasks.global[0]@5: Expected `object`, got `array`"),
    _message(
        "a text with half of a letter in it",
        b'{"topic": "math", "payload": {"prompt": "\xc3"}}',
        says="tasks.global[0]@6: not UTF-8: unexpected end of data at byte 0 of a text - at `$.payload`",
    ),
    _message(
        "half of a surrogate pair",
        b'{"topic": "math", "payload": {"prompt": "\\ud800"}}',
        says="tasks.global[0]@7: not JSON: Input data was truncated",
    ),
    _message(
        "a message nested beyond reason",
        b'{"topic": "math", "payload": {"prompt": "1", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}}",
        says="tasks.global[0]@8: nested too deeply",
    ),
    _message(
        "a message larger than messages may be",
        b'{"topic": "math", "payload": {"prompt": "' + b"x" * 1_100_000 + b'"}}',
        says="tasks.global[0]@9: 1,100,044 bytes; a task may have 1,048,576",
    ),
    _message(
        "a number beyond all floats",
        b'{"topic": "math", "payload": {"prompt": "1", "x": 1e999}}',
        says="tasks.global[0]@10: Number out of range - at `$[...]` - at `$.payload`",
    ),
    _message(
        "a task of an empty topic",
        b'{"topic": "", "payload": {"prompt": "1"}}',
        says="tasks.global[0]@11: Expected `str` of length >= 1 - at `$.topic`",
    ),
    _message(
        "a topic with a line end",
        b'{"topic": "ma\\nth", "payload": {"prompt": "1"}}',
        says="tasks.global[0]@12: topic has a control character - at `$.topic`",
    ),
    _message(
        "a null character in an id",
        b'{"topic": "math", "logical_id": "a\\u0000b", "payload": {"prompt": "1"}}',
        says="tasks.global[0]@13: has a control character - at `$.logical_id`",
    ),
    _message(
        "a round that nobody decided",
        b'{"topic": "math", "logical_id": "a", "payload": {"prompt": "1"}, "round_index": 3}',
        says="tasks.global[0]@14: a task starts at round 0, attempt 0, not 3, 0 - at `$.round_index`",
    ),
    _message(
        "a generation that nobody began",
        b'{"topic": "math", "logical_id": "a", "payload": {"prompt": "1"}, "generation": 2}',
        says="tasks.global[0]@15: only a redrive starts another generation - at `$.generation`",
    ),
    _message(
        "a task id of another id",
        b'{"topic": "math", "logical_id": "a", "task_id": "b:r0", "payload": {"prompt": "1"}}',
        says="tasks.global[0]@16: 'b:r0' is not 'a:r0' - at `$.task_id`",
    ),
    _message(
        "an origin that is Aureon's own",
        b'{"topic": "math", "logical_id": "a", "payload": {"prompt": "1"}, "origin": {"calls": 0}}',
        says="tasks.global[0]@17: Aureon's own; leave it out - at `$.origin`",
    ),
    _message(
        "a forged cause",
        b'{"topic": "math", "logical_id": "a", "task_id": "a:r1", "round_index": 1, "payload": {"prompt": "1"}, "cause": [0, 1, 0, "forged"]}',
        says="tasks.global[0]@18: claims a cause that this cluster has not sealed; leave it out - at `$.cause`",
    ),
    _message(
        "a forged redrive",
        b'{"topic": "math", "logical_id": "a", "task_id": "a:r0", "generation": 1, "payload": {"prompt": "1"}, "redrive": [0, 1, "forged"]}',
        says="tasks.global[0]@19: claims a redrive that this cluster has not sealed; leave it out - at `$.redrive`",
    ),
    _message(
        "a blob that is not there",
        b'{"topic": "math", "logical_id": "a", "payload": {"$blob": "sha256-' + b"0" * 64 + b'", "bytes": 7}}',
        says="tasks.global[0]@20: blob sha256-0000000000000000000000000000000000000000000000000000000000000000 is not in the blob store .aureon/blobs - at `$.payload`",
    ),
    _message(
        "a blob larger than blobs are",
        b'{"topic": "math", "logical_id": "a", "payload": {"$blob": "sha256-' + b"0" * 64 + b'", "bytes": 999999999}}',
        says="tasks.global[0]@21: blob sha256-0000000000000000000000000000000000000000000000000000000000000000: 999,999,999 bytes; a blob may have 67,108,864 - at `$.payload`",
    ),
    _message(
        "a task with a budget below nothing",
        b'{"topic": "math", "payload": {"prompt": "1"}, "budget": {"calls": -1}}',
        says="tasks.global[0]@22: Expected `int` >= 0 - at `$.budget.calls`",
    ),
    _message(
        "metadata that is no text",
        b'{"topic": "math", "payload": {"prompt": "1"}, "metadata": {"a": 1}}',
        says="tasks.global[0]@23: Expected `str`, got `int` - at `$.metadata[...]`",
    ),
    _message(
        "a source that is none",
        b'{"topic": "math", "payload": {"prompt": "1"}, "sources": [["math"]]}',
        says="tasks.global[0]@24: Expected `array` of at least length 2, got 1 - at `$.sources[0]`",
    ),
)

BROADCASTS: Final[tuple[Broadcast, ...]] = (
    Broadcast(
        kind="a cancellation that is no JSON",
        says="{time} WARNING connectors.directives: supervision.directives@0: Input data was truncated; ignored",
        kafka_topic="supervision.directives",
        key=b"cancel/x",
        value=b"{",
    ),
    Broadcast(
        kind="a cancellation that is no text",
        says="{time} WARNING connectors.directives: supervision.directives@1: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte; ignored",
        kafka_topic="supervision.directives",
        key=b"cancel/y",
        value=b'{"topic": "\xff"}',
    ),
    Broadcast(
        kind="a quarantine of no stage that there is",
        says="{time} WARNING connectors.directives: supervision.directives@2: Invalid enum value 'gone' - at `$.stage`; ignored",
        kafka_topic="supervision.directives",
        key=b"quarantine/n/t",
        value=b'{"node": "n", "topic": "t", "stage": "gone", "why": "", "since": 1}',
    ),
    Broadcast(
        kind="affinities nested beyond reason",
        says="{time} WARNING connectors.directives: supervision.directives@3: maximum recursion depth exceeded while deserializing an object; ignored",
        kafka_topic="supervision.directives",
        key=b"affinity/t",
        value=b'{"x": ' + b"[" * 5000,
    ),
    Broadcast(
        kind="a decision that is none",
        says="{time} WARNING flows.lane_source: tasks.results[0]@0: no decision: JSON is malformed: invalid character (byte 0); ignored",
        kafka_topic="tasks.results",
        key=b"",
        value=b"converged",
    ),
    Broadcast(
        kind="a decision without its result",
        says="{time} WARNING flows.lane_source: tasks.results[0]@1: no decision: converged, and without a result; ignored",
        kafka_topic="tasks.results",
        key=b"",
        value=b'{"kind": "converged", "kafka_topic": "tasks.global", "offset": 0, "task_id": "a:r0"}',
    ),
    Broadcast(
        kind="a decision on no message that there is",
        says="{time} WARNING flows.lane_source: tasks.results[0]@2: no decision: Expected `int` >= 0 - at `$.offset`; ignored",
        kafka_topic="tasks.results",
        key=b"",
        value=b'{"kind": "dead", "kafka_topic": "tasks.global", "offset": -1, "task_id": "a:r0"}',
    ),
)

REPLIES: Final[tuple[Reply, ...]] = (
    _reply(
        "a page for an answer",
        garbage(),
        "garbage",
        says="a: status 200, but JSON is malformed: invalid character (byte 0): <html>It works!</html>",
    ),
    _reply("an empty body", garbage(b""), "garbage", says="a: status 200, but Input data was truncated"),
    _reply(
        "a body that is no text",
        garbage(b'{"choices": "\xff"}'),
        "garbage",
        says='a: status 200, but Expected `array`, got `str` - at `$.choices`: {"choices": "�"}',
    ),
    _reply("an answer of no choices", garbage(b'{"choices": []}'), "garbage", says="a: an answer without choices"),
    _reply(
        "an answer of another shape",
        garbage(b'{"choices": [{"text": "42"}]}'),
        "garbage",
        says='a: status 200, but Object missing required field `message` - at `$.choices[0]`: {"choices": [{"text": "42"}]}',
    ),
    _reply(
        "an answer nested beyond reason",
        garbage(b'{"choices": ' + b"[" * 5000),
        "garbage",
        says='a: status 200, but Expected `object`, got `array` - at `$.choices[0]`: {"choices": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[',
    ),
    _reply(
        "an answer without an end",
        garbage(b'{"choices": [{"message": {"content": "' + b"9" * (9 << 20) + b'"}}]}'),
        "garbage",
        says="a: a body of more than 8,388,608 bytes",
    ),
    _reply(
        "a connection that is closed at once",
        disconnected(),
        "closed",
        says="a: ServerDisconnectedError: Server disconnected",
    ),
    _reply(
        "a connection that is closed half-way",
        half_closed(),
        "closed",
        says="a: ClientPayloadError: Response payload is not completed: <ContentLengthError: 400, message='Not enough data to satisfy content length header (received 100 of 200 bytes).'>",
    ),
    _reply(
        "too many calls",
        rate_limited("3"),
        "rate_limited",
        says="a: HTTP 429: slow down (asks to be left alone for 3 s)",
    ),
    _reply(
        "too many calls, with a time that is none", rate_limited("soon"), "rate_limited", says="a: HTTP 429: slow down"
    ),
    _reply(
        "too many calls, until the end of time", rate_limited("1e400"), "rate_limited", says="a: HTTP 429: slow down"
    ),
    _reply("a server that fails", error(500, "out of memory"), "server_error", says="a: HTTP 500: out of memory"),
    _reply(
        "a server that fails and says the key",
        error(500, "bad token sk-hunter2-hunter2-hunter2"),
        "server_error",
        says="a: HTTP 500: bad token [key]",
    ),
    _reply("a key that is not known", error(401, "no such key"), "denied", says="a: HTTP 401: no such key"),
    _reply("a model that is not known", error(404, "no model m"), "denied", says="a: HTTP 404: no model m"),
    _reply(
        "a request that the server does not take",
        error(400, "max_tokens is too large"),
        "rejected",
        says="a: HTTP 400: max_tokens is too large",
    ),
    _reply(
        "a redirect",
        Fault(status=302, headers={"Location": "http://127.0.0.1:1/"}, body=b""),
        "rejected",
        says="a: HTTP 302",
    ),
    _reply(
        "an error that moves the terminal's cursor",
        error(500, "\x1b[2Jgone"),
        "server_error",
        says="a: HTTP 500: �[2Jgone",
    ),
    _reply(
        "an answer that was cut off",
        garbage(b'{"choices": [{"message": {"content": "The answer is 4"}, "finish_reason": "length"}]}'),
        None,
        says="length",
    ),
    _reply(
        "an answer that was filtered",
        garbage(b'{"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}'),
        None,
        says="content_filter",
    ),
    _reply(
        "a refusal",
        garbage(b'{"choices": [{"message": {"content": null, "refusal": "I will not"}}]}'),
        None,
        says="refusal",
    ),
    _reply("blanks for an answer", garbage(b'{"choices": [{"message": {"content": "  "}}]}'), None, says="no content"),
    _reply(
        "a text without an answer",
        garbage(b'{"choices": [{"message": {"content": "I do not know."}}]}'),
        None,
        says="no answer",
    ),
)

_RUN: Final = "run --until-idle 0.3"
STATE: Final[tuple[Damage, ...]] = (
    Damage(
        kind="a call ledger that is none",
        says="aureon: .aureon/state/calls.sqlite: file is not a database; delete the file: finished calls of rounds without a decision are then paid again",
        file="state/calls.sqlite",
        damage=_overwritten,
        arguments=_RUN,
    ),
    Damage(
        kind="a call ledger of which half is left",
        says="aureon: .aureon/state/calls.sqlite: database disk image is malformed; delete the file: finished calls of rounds without a decision are then paid again",
        file="state/calls.sqlite",
        damage=_cut_off,
        arguments=_RUN,
    ),
    Damage(
        kind="an index of ids that is none",
        says="aureon: .aureon/state/lane-0000.sqlite: file is not a database; delete the file: it is made anew from the lake and the log",
        file="state/lane-0000.sqlite",
        damage=_overwritten,
        arguments=_RUN,
    ),
    Damage(
        kind="a state folder of no known cluster",
        says='aureon: .aureon/state/cluster.json: JSON is malformed: invalid character (byte 0); is this state folder Aureon\'s? Where it is, put back {"cluster_id":"{cluster}"}',
        file="state/cluster.json",
        damage=_overwritten,
        arguments=_RUN,
    ),
    Damage(
        kind="a state folder of another cluster",
        says="aureon: the state folder .aureon/state belongs to the cluster c-other, but the broker to {cluster}: set AUREON_BROKERS to the broker it was made with, or AUREON_STATE to another folder",
        file="state/cluster.json",
        damage=lambda _: b'{"cluster_id": "c-other"}',
        arguments=_RUN,
    ),
    Damage(
        kind="a lake of another cluster",
        says="aureon: the lake .aureon/lake belongs to the cluster c-other, but the broker to {cluster}: set AUREON_BROKERS to the broker it was made with, or AUREON_LAKE to another folder",
        file="lake/cluster.json",
        damage=lambda _: b'{"cluster_id": "c-other"}',
        arguments=_RUN,
    ),
    Damage(
        kind="a signing key that is none",
        says="aureon: .aureon/state/signing.key: expected an Ed25519 key in PEM; put the cell's own back, or remove it to begin with a new one",
        file="state/signing.key",
        damage=_overwritten,
        arguments=_RUN,
    ),
    Damage(
        kind="a cluster's key that is spoilt",
        says="aureon: .aureon/cluster.key: expected a key of 64 hex digits; copy it from another cell of this cluster",
        file="cluster.key",
        damage=_cut_off,
        arguments=_RUN,
    ),
    Damage(
        kind="another cluster's key",
        says="aureon: cluster {cluster} began with the key {key}, and this process has {key}: give it the cluster's own key",
        file="cluster.key",
        damage=lambda _: b"0" * 64,
        arguments=_RUN,
    ),
    Damage(
        kind="affinities that are none",
        says="{time} WARNING flows.learning: .aureon/state/affinities.json: JSON is malformed: invalid character (byte 0); the lake's last rounds are learned from instead",
        file="state/affinities.json",
        damage=_overwritten,
        arguments=_RUN,
        code=0,
        after="; what was learned is learned again from the lake",
    ),
)

LAKE: Final[tuple[Damage, ...]] = (
    Damage(
        kind="a file of records that is empty",
        says="aureon: lake {home}/.aureon/lake: a file cannot be read: Invalid Input Error: File '{home}/.aureon/lake/records/{part}.parquet' too small to be a Parquet file; `aureon verify` tells what is damaged",
        file="records",
        damage=_emptied,
        arguments="sql 'SELECT count(*) FROM one'",
        code=1,
    ),
    Damage(
        kind="a file of records in which a bit has turned",
        says="file_altered: a file is not the one that was sealed, or cannot be read; first records/{part}.parquet: sha256 {sha256}, and {sha256} was sealed\nrecord_missing: a task converged, and has no record (3 times); first rounds[0]@0\nNOT SOUND: 4 faults",
        file="records",
        damage=_turned,
        arguments="verify",
        code=1,
    ),
    Damage(
        kind="a file of rounds of which half is left",
        says="file_altered: a file is not the one that was sealed, or cannot be read; first rounds/{part}.parquet: sha256 {sha256}, and {sha256} was sealed\nNOT SOUND: 1 fault",
        file="rounds",
        damage=_cut_off,
        arguments="verify",
        code=1,
    ),
    Damage(
        kind="an entry of the log that is none",
        says="log_gap: an entry of a table's log is gone; first rounds: Kernel error: Json error: Encountered unexpected 'ÿ' whilst parsing value\nNOT SOUND: 1 fault",
        file="log",
        damage=_overwritten,
        arguments="verify",
        code=1,
    ),
    Damage(
        kind="an entry of the log that is none, for a query",
        says="aureon: lake {home}/.aureon/lake: the log of rounds cannot be read: Kernel error: Json error: Encountered unexpected 'ÿ' whilst parsing value; `aureon verify` tells what is damaged",
        file="log",
        damage=_overwritten,
        arguments="sql 'SELECT count(*) FROM one'",
        code=1,
    ),
    Damage(
        kind="an entry of the log without its seal",
        says="row_added: there are rows that no commit has sealed (9 times); first rounds[0]@0: no commit has sealed it\nNOT SOUND: 9 faults",
        file="log",
        damage=lambda data: data.replace(b"aureon.seal", b"aureon.sael"),
        arguments="verify",
        code=1,
    ),
    Damage(
        kind="a public key that is none",
        says="key_unknown: a commit is signed with a key that the lake does not have (4 times); first rounds version 1: the key {key}\nNOT SOUND: 4 faults",
        file="key",
        damage=_overwritten,
        arguments="verify",
        code=1,
    ),
)
