"""`aureon eval`: how well an ensemble does on questions with known answers, and how far its confidence holds."""

import argparse
import functools
import random
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.commands.arguments import settings_of
from flows.commands.eval_ask import ask_models
from flows.commands.eval_picture import picture_of
from flows.evaluation import Bin, Fared, Figures, Question, Trial, figures_of, mean_of, read_line
from flows.settings import Settings
from flows.terminal import FAILED, OK, printable, say, show
from schemas.errors import BadRecordError, RefusedError

FEWEST = 4
"""Questions that can be parted into halves."""
TELL_EVERY_S = 2.0


class Report(Figures, frozen=True, kw_only=True):
    """The figures with how they were come by; `--json` prints one of these."""

    trained_on: int
    """Questions, of each split where there are several."""
    splits: int
    """Random halves over which the figures are means; 1 where another file was learned from."""
    gap_mean: float
    """Accuracy less that of the best model by itself, read plainly."""
    gap_worst: float
    gap_reread_mean: float
    """Accuracy less that of the best model by itself, read as Aureon reads it."""
    gap_reread_worst: float
    ece_worst: float
    bad_lines: int


def main(options: argparse.Namespace) -> int:
    """Read the questions, ask the models where nothing is recorded, and print what came out."""
    settings = settings_of(options)
    questions, bad = _read(Path(options.file))
    training: list[Question] = []
    if options.train is not None:
        training, more_bad = _read(Path(options.train))
        bad += more_bad
    everything = [*questions, *training]
    if not all(q.said for q in everything):
        everything = ask_models(settings, everything)
        questions, training = everything[: len(questions)], everything[len(questions) :]
    if options.train is not None:
        every, trained_on = [_split(settings, training, questions)], len(training)
    else:
        if len(questions) < FEWEST:
            raise RefusedError(
                f"{options.file}: {len(questions)} {'question is' if len(questions) == 1 else 'questions are'} too few "
                f"to learn from one half and measure on the other; give at least {FEWEST}, or --train FILE"
            )
        every, trained_on = _halves(settings, questions, options.splits, options.seed), len(questions) // 2
    report = _report(every, trained_on, bad)
    if options.picture is not None:
        Path(options.picture).write_text(picture_of(report), encoding="utf-8")
        say(f"aureon: the picture is in {options.picture}")
    if options.json:
        show(msgspec.json.encode(report).decode())
    else:
        _print(report)
    return FAILED if bad else OK


def _read(path: Path) -> tuple[list[Question], int]:
    """Read a file of questions; bad lines are told and left out.

    Raises:
        RefusedError: there is none in it.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror or error}") from None
    questions, bad = [], 0
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            questions.append(read_line(line, place))
        except BadRecordError as error:
            say(f"{path}:{place}: {error}")
            bad += 1
    if not questions:
        what = "no line of it is a question with a known answer" if bad else "it is empty"
        raise RefusedError(f'{path}: {what}; a line is {{"question": "…", "truth": "…"}}, with `responses` if recorded')
    return questions, bad


def _split(settings: Settings, training: Sequence[Question], measured: Sequence[Question]) -> Figures:
    trial = Trial(settings)
    trial.learn(training)
    return figures_of(trial.measure(measured))


def _halves(settings: Settings, questions: Sequence[Question], splits: int, seed: int) -> list[Figures]:
    """Learn from a random half and measure on the other, as often as wanted."""
    every, told_at = [], time.monotonic()
    for split in range(splits):
        mixed = list(questions)
        random.Random(f"{seed}:{split}").shuffle(mixed)  # noqa: S311 - the same halves each time
        half = len(mixed) // 2
        every.append(_split(settings, mixed[:half], mixed[half:]))
        if time.monotonic() - told_at > TELL_EVERY_S:
            told_at = time.monotonic()
            say(f"{split + 1} of {splits} splits")
    return every


def _report(every: Sequence[Figures], trained_on: int, bad: int) -> Report:
    gaps = [f.accuracy - f.best_single for f in every]
    reread = [f.accuracy - f.best_single_reread for f in every]
    mean = mean_of(every)
    fields = {field: getattr(mean, field) for field in Figures.__struct_fields__}
    report = Report(
        **fields,
        trained_on=trained_on,
        splits=len(every),
        gap_mean=sum(gaps) / len(gaps),
        gap_worst=min(gaps),
        gap_reread_mean=sum(reread) / len(reread),
        gap_reread_worst=min(reread),
        ece_worst=max(f.ece for f in every),
        bad_lines=bad,
    )
    rounded = {f: round(v, 6) for f in report.__struct_fields__ if isinstance(v := getattr(report, f), float)}
    return msgspec.structs.replace(report, **rounded)


def _print(report: Report) -> None:
    console = Console()
    several, best = report.splits > 1, report.best_single_model
    how = f"{report.splits} random halves, means" if several else "of another file"
    say_plain = functools.partial(console.print, highlight=False)
    say_plain(f"{report.questions:,} questions measured, {report.trained_on:,} learned from ({how})")
    worst = f", at worst {report.gap_worst:+.2%}" if several else ""
    reread = f", at worst {report.gap_reread_worst:+.2%}" if several else ""
    ece_worst = f"at worst {report.ece_worst:.4f}" if several else ""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows = [
        ("accuracy", f"{report.accuracy:.2%}", ""),
        (
            "best single model",
            f"{report.best_single:.2%}",
            f"{best}: {report.gap_mean:+.2%}{worst}",
        ),
        ("  its text reread", f"{report.best_single_reread:.2%}", f"{report.gap_reread_mean:+.2%}{reread}"),
        ("plurality", f"{report.plurality:.2%}", "the answer that most models give"),
        ("ceiling", f"{report.ceiling:.2%}", "at least one model knows"),
        ("calibration error", f"{report.ece:.4f}", ece_worst),
        ("confidence >= .95", f"{report.confident_share:.2%}", f"{report.confident_accuracy:.2%} of them right"),
        ("converged", f"{report.converged_unforced:.2%}", f"not forced; {report.false_convergence:.2%} of them wrong"),
        ("effective votes", f"{report.effective_votes:.2f}", "independent models, for the leading answer"),
        ("calls a question", f"{report.calls:.2f}", f"{report.tokens:,.0f} tokens, {report.cost:.6g} of money"),
    ]
    for row in rows:
        table.add_row(*row)
    say_plain(table)
    say_plain(_models(report.models))
    say_plain(_bins("confidence", report.reliability, "from {:.2f}"))
    say_plain(_bins("agree", report.agreement, "{:.0f} models"))


def _models(models: Sequence[Fared]) -> Table:
    table = Table(box=None, pad_edge=False, title="", title_justify="left")
    table.add_column("model")
    for column in ("right", "answered", "tokens a question", "money a question"):
        table.add_column(column, justify="right")
    for each in models:
        name = Text(printable(each.model))
        shares = f"{each.accuracy:.2%}", f"{each.answered:.2%}"
        table.add_row(name, *shares, f"{each.tokens:,.0f}", f"{each.cost:.6g}")
    return table


def _bins(title: str, bins: Sequence[Bin], name: str) -> Table:
    table = Table(box=None, pad_edge=False, title="", title_justify="left")
    table.add_column(title)
    for column in ("questions", "confidence", "right"):
        table.add_column(column, justify="right")
    for each in bins:
        table.add_row(name.format(each.low), f"{each.answers:,.1f}", f"{each.confidence:.3f}", f"{each.accuracy:.3f}")
    return table
