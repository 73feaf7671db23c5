r"""Numbers as people and models write them, with the unit that they name: pure and exact.

    1,234.50   1 234,50   3.2 * 10^5   1 1/2   \frac{3}{4}   $5   5 dollars   50 %   12 kilometres   twenty-one

A unit that is in the table is kept with its number. Other words behind a number say what was counted, and are left out,
but for those that change its value. (The table is our own: `pint` takes a quarter of a second to load, and reads
`5 cats` as a pressure and `5 pins` as a length.)
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_LENGTH = 300
"""Characters of a number, about the range of a double. What is longer is none."""


class Quantity(NamedTuple):
    """A number, and the name of its unit in the table; "" is none."""

    value: Fraction
    unit: str = ""


_TABLE = """
length m 1 metre meter | km 1000 kilometre kilometer | cm 1/100 centimetre centimeter | mm 1/1000 millimetre millimeter
length in 127/5000 inch inches | ft 381/1250 foot feet | yd 1143/1250 yard | mi 201168/125 mile
mass g 1 gram gramme | kg 1000 kilogram kilo | mg 1/1000 milligram | t 1000000 tonne
mass oz 45359237/1600000 ounce | lb 45359237/100000 lbs pound
time s 1 sec second | min 60 minute | h 3600 hr hour | d 86400 day | week 604800 wk | ms 1/1000 millisecond
months month 1 | year 12 yr
volume l 1 litre liter L | ml 1/1000 millilitre milliliter mL | gal 473176473/125000000 gallon
area m^2 1 m² m2 sqm | km^2 1000000 km² km2 | cm^2 1/10000 cm² cm2 | ft^2 145161/1562500 ft² ft2 sqft | ha 10000 hectare
space m^3 1 m³ m3 | cm^3 1/1000000 cm³ cm3
speed km/h 5/18 kmh kph | m/s 1 mps | mph 1397/3125
energy J 1 joule | kJ 1000 kilojoule | kWh 3600000
power W 1 watt | kW 1000 kilowatt
pressure Pa 1 pascal | kPa 1000
data B 1 byte | KB 1000 kB kilobyte | MB 1000000 megabyte | GB 1000000000 gigabyte
frequency Hz 1 hertz | kHz 1000 | MHz 1000000
celsius °C 1 celsius
fahrenheit °F 1 fahrenheit
angle rad 1 radian
percent % 1 percent pct
morning am 1 a.m a.m.
afternoon pm 1 p.m p.m.
dollar USD 1 $ dollar US$ buck | cent 1/100 ¢
euro EUR 1 € euro
sterling GBP 1 £ quid
yen JPY 1 ¥ yen
rupee INR 1 ₹ rupee
"""


def _read_table() -> tuple[dict[str, str], dict[str, tuple[str, Fraction]]]:
    """Give the unit of each of its names, and the dimension and the size of each unit."""
    names: dict[str, str] = {}
    sizes: dict[str, tuple[str, Fraction]] = {}
    for line in _TABLE.strip().splitlines():
        dimension, _, units = line.partition(" ")
        for entry in units.split(" | "):
            unit, size, *others = entry.split()
            sizes[unit] = dimension, Fraction(size)
            for name in (unit, *others):
                names[name] = unit
                if len(name) > 2 and name.isalpha():
                    names.update({name.lower(): unit, f"{name.lower()}s": unit})
            if dimension == "length":
                for power, word in ((2, "square"), (3, "cubic")):
                    if f"{unit}^{power}" in _TABLE:
                        squares = {
                            f"{word} {name}{end}": f"{unit}^{power}" for name in (unit, *others) for end in ("", "s")
                        }
                        names.update(squares)
    names.update({"miles per hour": "mph", "kilometers per hour": "km/h", "kilometres per hour": "km/h"})
    names.update({"meters per second": "m/s", "metres per second": "m/s", "sq ft": "ft^2", "sq m": "m^2", "usd": "USD"})
    names.update({"degrees celsius": "°C", "degrees fahrenheit": "°F", "per cent": "%", "eur": "EUR", "gbp": "GBP"})
    names["°"] = ""
    return names, sizes


UNITS, _SIZES = _read_table()
"""The unit of each name: `kilometres` is `km`."""

_SMALL = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORDS = {word: value for value, word in enumerate(_SMALL.split())} | {
    word: 20 + 10 * i for i, word in enumerate(_TENS.split())
}
"""The numbers that are one word."""
SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "k": 1000,
    "million": 10**6,
    "billion": 10**9,
    "bn": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
"""What multiplies the number before it."""
_CHANGING = """
not no never or and to of pi tau phi sqrt log exp sin cos tan squared cubed factorial square cube root half halves
third thirds quarter quarters fourth fourths fifth fifths sixths sevenths eighths ninths tenth tenths hundredth
hundredths thousandths millionths percentage mod modulo times plus minus over point million billion thousand hundreds
thousands millions billions dozens than if else is was out at least most but maybe remainder infinity nan negative
divided multiplied base binary hex
"""
_CHANGES = frozenset(_CHANGING.split())
"""Words behind a number with which it is another number, or none."""

_CURRENCY = r"(?:US\$|USD ?|EUR ?|GBP ?|[$€£¥₹])"
_DIGITS = (
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d{1,3}(?:[_ \u00a0\u202f]\d{3})+(?:[.,]\d+)?|\d{1,3}(?:\.\d{3})+,\d+"
    r"|\d+\.?\d*|\.\d+)"
)
_COMMA_IS_POINT = re.compile(r"\d{1,3}(?:[._\s]\d{3})+,\d+")
"""Of `1 234,50` and `1.234,50`, but not of `1,234`."""
_POWER = r"(?:[eE][+-]?\d{1,3}|\s?[×x*·]\s?10(?:\^|\*\*)[{(]?[+-]?\d{1,3}[)}]?)"  # noqa: RUF001 - as people write it
_WRITTEN = re.compile(
    rf"(?P<sign>[+-]?)\s?(?P<currency>{_CURRENCY}?)\s?(?P<sign2>[+-]?)"
    rf"(?:(?P<whole>\d{{1,12}})(?:\s|\s?&\s?|\sand\s)(?P<over>\d{{1,12}})/(?P<under>\d{{1,12}})"
    rf"|(?P<top>{_DIGITS})(?P<power>{_POWER}?)(?:\s?/\s?(?P<bottom>{_DIGITS}))?)"
    r"(?P<rest>(?:[\s-]?[^\d\s,;:=+*/^!?()-][^\d,;:=+*^!?()]*(?:\^?[23])?)?)",
    re.ASCII | re.DOTALL,
)
_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?\s?(?:([ap])\.?\s?m\.?)?", re.ASCII | re.IGNORECASE)
_LATEX = re.compile(r"\\(?:[,;:! ]|left\b|right\b|q?quad\b)|(?<=\d)\{,\}")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s?\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac(?:\{([^{}]*)\}\{([^{}]*)\}|(\d)(\d))")
_LEFT_SIDE = re.compile(r"\s*[A-Za-z]\w{0,9}(?:\(\w\))?\s*=\s*(?=[^=])")


def read(text: str) -> Quantity | None:
    """Read a text that is a number and nothing else, exactly; None is no number.

    A percent sign is a unit: `50%` is 50, as `50` is, and not a half.
    """
    whole, point, digits = text.lstrip("-").partition(".")
    if point and (whole + digits).isdecimal() and len(text) <= MAX_LENGTH and text.isascii() and text[:2] != "--":
        value = Fraction(int(whole + digits), 10 ** len(digits))
        return Quantity(-value if text[0] == "-" else value)
    if len(text) > MAX_LENGTH:
        return None
    top, slash, bottom = text.partition("/")
    if slash and bottom.isdecimal() and top.lstrip("-").isdecimal() and text.isascii() and text[:2] != "--":
        return Quantity(Fraction(int(top), int(bottom))) if bottom.strip("0") else None
    if text.isdecimal() and text.isascii():
        return Quantity(Fraction(int(text)))
    return _read(text)


def same(a: Quantity, b: Quantity, tolerance: Fraction) -> bool:
    """Tell whether two quantities are the same, to a share of the larger; a unit that one leaves out is the other's."""
    x, y = a.value, b.value
    if a.unit and b.unit and a.unit != b.unit:
        (of_a, size_a), (of_b, size_b) = _SIZES[a.unit], _SIZES[b.unit]
        if of_a != of_b:
            return {a.unit, b.unit} == {"lb", "GBP"} and x == y  # both are pounds
        x, y = x * size_a, y * size_b
    return x == y or abs(x - y) <= tolerance * max(abs(x), abs(y))


@lru_cache(maxsize=1024)
def _read(text: str) -> Quantity | None:
    text = text.replace("−", "-").replace("–", "-").strip()  # noqa: RUF001 - as typesetters write it
    if not any(map(str.isdigit, text)):
        return _in_words(text)
    if "\\" in text or text.endswith("$"):
        text = _without_latex(text)
    text = _LEFT_SIDE.sub("", text.rstrip(". "), count=1)
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        hour, minute, second, half = clock.groups()
        hours = int(hour) + Fraction(int(minute), 60) + Fraction(int(second or 0), 3600)
        return Quantity(hours, f"{half.lower()}m" if half else "")
    match = _WRITTEN.fullmatch(text)
    value = _value(match) if match is not None else None
    scaled = _behind(match["rest"], UNITS.get(match["currency"].strip(), "")) if match is not None else None
    return None if value is None or scaled is None else Quantity(value * scaled[0], scaled[1])


def _value(match: re.Match[str]) -> Fraction | None:
    sign = {"": 1, "+": 1, "-": -1}.get(match["sign"] + match["sign2"])
    if sign is None:
        return None
    if match["whole"] is None:
        bottom = _decimal(match["bottom"] or "1")
        return sign * _decimal(match["top"]) * _power(match["power"]) / bottom if bottom else None
    over, under = int(match["over"]), int(match["under"])
    return sign * (int(match["whole"]) + Fraction(over, under)) if over < under else None


def _without_latex(text: str) -> str:
    """Leave out what only sets a text, and write what remains of LaTeX as one types it."""
    text = text.replace("\\$", "USD ").replace("\\%", "%")
    if text.startswith("$") and text.endswith("$"):
        text = text.strip("$")
    text = _TEXT.sub(r" \1", _LATEX.sub("", text))
    text = text.replace("\\times", "×").replace("\\cdot", "·").replace("^\\circ", "°").replace("^{\\circ}", "°")  # noqa: RUF001
    text = _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", text)
    return re.sub(r"(?<=[-+]) +", "", " ".join(text.split()))


def _decimal(digits: str) -> Fraction:
    point = digits.rfind(",")
    if point > 0 and _COMMA_IS_POINT.fullmatch(digits):
        return Fraction(re.sub(r"\D", "", digits[:point]) + "." + digits[point + 1 :])
    return Fraction(re.sub(r"[,_\s]", "", digits))


def _power(written: str) -> Fraction | int:
    """Ten to the power that `e5`, `x 10^5` or `*10**5` has."""
    exponent = re.search(r"[+-]?\d+[)}]?$", written)
    return Fraction(10) ** int(exponent[0].rstrip(")}")) if exponent is not None else 1


def _behind(rest: str, unit: str) -> tuple[int, str] | None:
    """Read what stands behind a number: what multiplies it, and its unit; None where it makes another thing of it."""
    rest = rest.strip(" \t\n.-")
    if not rest:
        return 1, unit
    scale = 1
    first, _, others = rest.partition(" ")
    while (known := SCALES.get(first.casefold())) is not None and (first != "K"):
        scale *= known
        first, _, others = others.strip().partition(" ")
    rest = f"{first} {others}".strip() if scale > 1 else rest
    named = _unit(rest) if rest else ""
    if named is None or (named and unit and named != unit):
        return None
    return scale, named or unit


def _unit(words: str) -> str | None:
    """The unit that words name; "" where they say what was counted, None where they are something else."""
    alone = re.split(r"(?:^|\s)(?:per|a|an|each|every)(?=\s|$)", words, maxsplit=1)[0]
    for name in (words, words.casefold(), alone, alone.casefold()):
        if name in UNITS:
            return UNITS[name]
    words = alone
    counted = words.split()
    names_things = len(counted) <= 4 and all(len(word) > 2 and word.isalpha() for word in counted)
    if not names_things or any(word.casefold() in _CHANGES or word.casefold() in WORDS for word in counted):
        return None
    return UNITS.get(counted[-1].casefold(), "") if counted else ""


def _in_words(text: str) -> Quantity | None:
    """Read `minus twenty-one`, `one hundred and five apples`, `a dozen`."""
    words = text.replace("-", " ").rstrip(".").split()
    sign = 1
    if len(words) > 1 and words[0].casefold() in ("minus", "negative"):
        sign, words = -1, words[1:]
    if len(words) > 1 and words[0].casefold() == "a" and words[1].casefold() in SCALES:
        words[0] = "one"
    if not words or len(words) > 16 or words[0].casefold() not in WORDS:
        return None
    total = group = place = last = 0
    while place < len(words):
        word = words[place].casefold()
        known, scale = WORDS.get(word), SCALES.get(word) if len(word) > 2 else None
        if known is not None:
            if last and last != 100 and not (last >= 20 and last % 10 == 0 and 0 < known < 10):
                return None  # `two three`
            group, last = group + known, known
        elif scale == 100:
            group, last = group * scale, 100
        elif scale is not None:
            total, group, last = total + group * scale, 0, 100
        elif word != "and" or last != 100:
            break
        place += 1
    behind = _behind(" ".join(words[place:]), "")
    return None if behind is None else Quantity(Fraction(sign * (total + group) * behind[0]), behind[1])
