"""The picture of an evaluation: how confidence and accuracy go together, and what agreement is worth; as SVG."""

from collections.abc import Callable, Iterator, Sequence
from xml.sax.saxutils import escape

from flows.evaluation import Bin, Figures

WIDTH, HEIGHT = 900, 500
SIDE = 300
TOP, LEFT_A, LEFT_B = 136, 70, 520
INK, FAINT, BLUE, GREY = "#1f2933", "#d9dfe5", "#2563a8", "#9aa5b1"


def picture_of(figures: Figures) -> str:
    """Draw the figures; the text of a file of questions is not in it."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f'<g font-family="system-ui, sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT_A, 34, f"{figures.accuracy:.1%} right of {figures.questions:,} questions", size=22),
        _text(
            LEFT_A,
            58,
            f"best single model {figures.best_single:.1%} ({figures.best_single_reread:.1%} reread), "
            f"plurality {figures.plurality:.1%}, ceiling {figures.ceiling:.1%}",
        ),
        _text(
            LEFT_A,
            78,
            f"calibration error {figures.ece:.3f}; {figures.confident_share:.0%} of the answers have a confidence of "
            f".95 or more, {figures.confident_accuracy:.1%} of them are right",
        ),
        _text(LEFT_A, TOP - 18, "accuracy by confidence (area: how many answers)", size=14),
        *_frame(LEFT_A),
        f'<path d="M{LEFT_A} {TOP + SIDE}L{LEFT_A + SIDE} {TOP}" stroke="{GREY}" stroke-dasharray="4 4"/>',
        *_discs(figures.reliability),
        *[_text(LEFT_A + SIDE * x, TOP + SIDE + 20, f"{x:g}", anchor="middle") for x in (0, 0.25, 0.5, 0.75, 1)],
        _text(LEFT_A + SIDE / 2, TOP + SIDE + 42, "confidence", anchor="middle"),
        _text(LEFT_B, TOP - 18, "accuracy by agreement (below: how many answers)", size=14),
        *_frame(LEFT_B),
        *_bars(figures.agreement),
        _text(LEFT_B + SIDE / 2, TOP + SIDE + 42, "models that gave the leading answer", anchor="middle"),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _frame(left: float) -> Iterator[str]:
    for y in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = TOP + SIDE * (1 - y)
        yield f'<line x1="{left}" y1="{at:.1f}" x2="{left + SIDE}" y2="{at:.1f}" stroke="{FAINT}"/>'
        yield _text(left - 8, at + 4, f"{y:g}", anchor="end")


def _discs(bins: Sequence[Bin]) -> Iterator[str]:
    most = max((b.answers for b in bins), default=1.0)
    for b in bins:
        x, y = LEFT_A + SIDE * b.confidence, TOP + SIDE * (1 - b.accuracy)
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{max(1.5, 16 * (b.answers / most) ** 0.5):.1f}" fill="{BLUE}" '
            f'fill-opacity="0.55" stroke="{BLUE}"><title>{b.answers:.1f} answers: confidence {b.confidence:.3f}, right '
            f"{b.accuracy:.3f}</title></circle>"
        )


def _bars(bins: Sequence[Bin]) -> Iterator[str]:
    step = SIDE / max(1, len(bins))
    place: Callable[[int], float] = lambda i: LEFT_B + step * (i + 0.5)  # noqa: E731 - a formula
    for i, b in enumerate(bins):
        height = SIDE * b.accuracy
        width = step * 0.6
        yield (
            f'<rect x="{place(i) - width / 2:.1f}" y="{TOP + SIDE - height:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" fill="{BLUE}" fill-opacity="0.75"/>'
        )
        yield _text(place(i), TOP + SIDE - height - 6, f"{b.accuracy:.2f}", anchor="middle")
        yield _text(place(i), TOP + SIDE + 20, f"{b.low:.0f}", anchor="middle")
        yield _text(
            place(i), TOP + SIDE - 8, f"{b.answers:,.0f}", anchor="middle", fill="white" if height > 24 else INK
        )


def _text(x: float, y: float, text: str, *, size: int = 13, anchor: str = "start", fill: str = INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'
    )
