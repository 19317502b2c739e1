"""Notation of final answers: how people write a number or a formula, as LaTeX that math-verify reads."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

MAX_EXPONENT = 40  # of 1e6; a larger one stays as it is: written out, answers grow 50 times
MAX_ITEMS = 32  # of a list; a longer one is compared as a whole

_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox|bf|rm)\s*\{([^{}]*)\}")
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]|\\(?:left|right|displaystyle)(?![a-z])|\\[$]|\*\*|`|</s>|<\|\w{1,20}\|>")
_EMOJI = re.compile(r"[\u2600-\u27bf\ufe0f\U0001f000-\U0001faff ]+$")
_STARS = re.compile(r"(?<=[\w)])\*\*(?=[\w(-])")  # a power; others are bold
_PAIRS = frozenset(("()", "[]", "''", '""', "“”", "‘’", "«»", "「」"))
# Dates, times, scores, ratios, ranges: no arithmetic.
LITERAL = re.compile(
    r"\d+ ?[-:] ?\d+|\d{1,4}([-./])\d{1,2}\1\d{1,4}|\d{1,2}:\d{2}(?::\d{2})? ?(?:[ap]\.? ?m\.?)?", re.IGNORECASE
)
# Shorter ones, unless they stand alone, are products: 2xy.
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}|(?<![^ ])[A-Za-z]{2,3}(?= )|[^\W\d_a-zA-Z]{2,}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}")
_FUNCTIONS = frozenset(
    ("sinh", "cosh", "tanh", "sqrt", "arcsin", "arccos", "arctan", "frac", "pmod", "sin", "cos", "tan", "log", "ln",
     "exp", "lim", "max", "min", "gcd", "lcm", "mod", "det", "and", "or")
)  # fmt: skip
_MATHEMATICS = re.compile(r"\d|\\[A-Za-z]|[-+*/^=<>]")

_SYMBOLS = str.maketrans(
    {
        "−": "-", "–": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "⁄": "/",
        "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "°": r"^{\circ}",
        "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "θ": r"\theta ", "α": r"\alpha ",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "～": "~", "，": ",", "；": ";", "：": ":", "、": ",", "％": "%",
    }
)  # fmt: skip
_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_VULGAR = re.compile(r"(?:(?<!\d)(\d{1,40}) ?)?([¼-¾⅐-⅞])")
_ROOT = re.compile(r"√ ?(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+|[a-z]))")
_POWER = re.compile(r"\^ ?\(?(-\d+)\)?")
_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\\[,;:! ]|\{,\}|[ ~,])\d{3})+(?!\d|,\d)")
_REPEATING = re.compile(r"(?<![\d.])(\d{0,20})\.(\d{0,20})\\overline\{(\d{1,20})\}")
_MIXED = re.compile(r"(?<![\d./^])(\d+) (\d+)/(\d+)(?![\d/])")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d{1,40}(?:\.\d{1,40})?)[eE]([-+]?\d{1,4})(?!\w)")
_MAGNITUDES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MAGNITUDE = re.compile(rf"(?<!\d)(\d{{1,40}}(?:\.\d{{1,40}})?) ?({'|'.join(_MAGNITUDES)})s?\b", re.IGNORECASE)

_PERCENT = re.compile(r" ?(?:\\?%|per ?cent(?:age)?(?: points?)?\b|pct\b)\.?", re.IGNORECASE)
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_COUNTED = re.compile(rf"\b({'|'.join(_NUMBERS)})(?= (?:{'|'.join(_MAGNITUDES)}))", re.IGNORECASE)
_ASIDE = re.compile(r" \([a-z][a-z -]{2,}\)$", re.IGNORECASE)  # 10 (ten)
_UNIT = re.compile(
    r"(.*(?:[\d)}]|\\pi))([\s~]|\\[ ,;])*((?:[^\W\d_]|[$€£¥₹])[^\d,;=<>()\\]*(?:\^\{?[23]\}?)?)", re.DOTALL
)
_CURRENCY = re.compile(r"([-+]?) ?([$€£¥₹]|US\$|USD|EUR|Rs\.?) ?(?=[\d.])")
# Of each dimension: the names of its units, with their size.
_UNITS = {
    name: (dimension, size)
    for dimension, units in {
        "length": {"mm millimeter millimetre": "1/1000", "cm centimeter centimetre": "1/100", "m meter metre": "1",
                   "km kilometer kilometre": "1000", "inch in": "127/5000", "foot feet ft": "381/1250",
                   "yd yard": "1143/1250", "mi mile": "201168/125"},
        "mass": {"mg milligram": "1/1000", "g gram": "1", "kg kilogram": "1000",
                 "lb": "45359237/100000", "oz ounce": "45359237/1600000"},
        "time": {"s sec second": "1", "min minute": "60", "h hr hour": "3600", "day": "86400", "week": "604800"},
        "volume": {"ml milliliter millilitre": "1/1000", "l liter litre": "1"},
        "dollar": {"cent ¢": "1/100", "$ us$ usd dollar": "1"},
        "euro": {"€ eur euro": "1"}, "pound": {"£ gbp": "1"}, "yen": {"¥ yen": "1"}, "rupee": {"₹ rs rupee": "1"},
    }.items()
    for names, size in units.items()
    for name in names.split()
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quantity:
    """A formula in LaTeX, with what it counts."""

    formula: str
    unit: str = ""  # as written; % for a percentage

    def size(self) -> tuple[str, Fraction] | None:
        """Return the unit's dimension (`length/time`, `length^2`) and size, None of an unknown unit."""
        name, size = "", Fraction(1)
        for index, part in enumerate(re.split(r" per |/", self.unit.replace("mph", "mile/hour").lower())):
            power = 2 if re.search(r"square|sq\b|\^\{?2", part) else 3 if re.search(r"cubic|\^\{?3", part) else 1
            word = re.sub(r"square|sq\b|cubic|\^.*", "", part).strip(" .")
            unit = _UNITS.get(word) or _UNITS.get(word.removesuffix("s")) or _UNITS.get(word.removesuffix("es"))
            if unit is None:
                return None
            name += ("/" if index else "") + unit[0] + (f"^{power}" if power > 1 else "")
            size *= Fraction(unit[1]) ** (-power if index else power)
        return name, size


def quantity(text: str) -> Quantity | None:
    """Return a number or formula with its unit; None for words, a date, a time, a score, an empty text."""
    is_money = re.match(r"\W*\$ ?[\d.]", text) is not None and text.count("$") % 2 == 1
    text = _ASIDE.sub("", plain(text))
    text = rewritten(str(_NUMBERS.index(text.lower())) if text.lower() in _NUMBERS else text)
    unit = "$" if is_money else ""
    if LITERAL.fullmatch(text) or not text:
        return None
    if currency := _CURRENCY.match(text):
        text, unit = currency[1] + text[currency.end() :], currency[2]
    if (percent := _PERCENT.search(text)) and percent.end() == len(text):
        text, unit = text[: percent.start()], "%"
    elif (found := _UNIT.fullmatch(text)) and _is_unit(
        found[3], is_apart=found[2] is not None and not found[1].endswith("pi")
    ):
        text, unit = found[1], unit or found[3].strip()
    words = _WORD.findall(_ENVIRONMENT.sub("", text))
    if not _FUNCTIONS.issuperset(words) or not (_MATHEMATICS.search(text) or re.fullmatch(r"[a-z]", text)):
        return None
    return Quantity(text.strip(), unit)


def plain(text: str) -> str:
    """Return a text without delimiters around it, `\\text{…}`, bold; case is kept: it may be mathematics."""
    text = _STARS.sub("^", _TEXT.sub(r"\1", text))
    text = " ".join(_DELIMITERS.sub("", text).split())
    while text:
        bare = _EMOJI.sub("", text).strip("$*_ ").rstrip(".。,;").removeprefix(":").removeprefix("：").strip()
        if len(bare) > 1 and bare[0] + bare[-1] in _PAIRS and not set("()[],").intersection(bare[1:-1]):
            bare = bare[1:-1].strip()
        if bare == text:
            break
        text = bare
    return text


def rewritten(text: str) -> str:
    """Return a text with numbers and symbols as LaTeX has them: ½, √2, 1e6, 2 1/2, `1\\,200`, 3 million."""
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{unicodedata.normalize('NFKC', found[0]).replace('−', '-')}}}", text)
    text = _VULGAR.sub(lambda found: _mixed(found[1], unicodedata.normalize("NFKC", found[2])), text)
    text = _POWER.sub(r"^{\1}", text.translate(_SYMBOLS).replace(r"\varnothing", r"\emptyset"))
    text = _ROOT.sub(lambda found: f"\\sqrt{{{found[1] or found[2] or found[3]}}}", text)
    text = _GROUPS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    text = _MIXED.sub(lambda found: _mixed(found[1], f"{found[2]}/{found[3]}"), text)
    text = _REPEATING.sub(lambda found: _repeating(*found.groups()), text)
    text = _COUNTED.sub(lambda found: str(_NUMBERS.index(found[1].lower())), text)
    text = _SCIENTIFIC.sub(lambda found: _scaled(found[1], int(found[2])), text)
    return _MAGNITUDE.sub(
        lambda found: f"{(Decimal(found[1]) * _MAGNITUDES[found[2].lower()]).normalize():f}", text
    ).strip()


def items(formula: str) -> tuple[str, list[str]]:
    """Return the brackets of a list, and what they hold: `()` for a point, `{}` for a set, "" for `1, 2` and `±2`.

    A formula that is no list is the one item of itself.
    """
    text = re.sub(r" ?,? (?:and|or) ", ", ", " ".join(formula.split()))
    brackets, inside = "", text
    if text[:1] + text[-1:] in ("()", "{}", "\\}"):
        brackets = "()" if text[0] == "(" else "{}"
        inside = text[1:-1] if text[0] != "\\" else text.removeprefix(r"\{").removesuffix(r"\}")
    parts, depth, begin = [], 0, 0
    for index, character in enumerate(inside):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if depth < 0:  # the two brackets are not a pair
            return "", [formula]
        if depth == 0 and character in ",;":
            parts.append(inside[begin:index].strip())
            begin = index + 1
    parts.append(inside[begin:].strip())
    if not brackets:
        signs = [[part.replace(r"\pm", sign, 1) for sign in "+-"] if r"\pm" in part else [part] for part in parts]
        parts = [each.replace("+", "", 1) if each.startswith("+") else each for pair in signs for each in pair]
    is_list = 1 < len(parts) <= MAX_ITEMS and all(parts)
    return (brackets, parts) if is_list or (brackets == "{}" and all(parts)) else ("", [formula])


def _is_unit(unit: str, *, is_apart: bool) -> bool:
    """Return whether a text after a number is a unit: `5 m`, `5cm`, `3 red balls`; not the variables of `2 xy`."""
    words = unit.split()
    if not words or len(words) > 5 or {"and", "or"}.intersection(words):
        return False
    if unit[0] >= "\u2e80":  # 5元
        return True
    if Quantity("", unit).size() is not None:
        return is_apart or len(unit) > 1
    return is_apart and max(map(len, words)) > 2


def _mixed(whole: str, fraction: str) -> str:
    """Return a mixed number as one fraction."""
    numerator, denominator = map(int, re.split("[/⁄]", fraction))
    return f"{int(whole or 0) * denominator + numerator}/{denominator}"


def _repeating(whole: str, digits: str, period: str) -> str:
    """Return a repeating decimal as a fraction: 0.1(6) is 15/90."""
    numerator = int(whole + digits + period) - int(whole + digits or 0)
    return f"{numerator}/{(10 ** len(period) - 1) * 10 ** len(digits)}"


def _scaled(digits: str, exponent: int) -> str:
    """Return scientific notation written out."""
    return f"{Decimal(digits).scaleb(exponent):f}" if abs(exponent) <= MAX_EXPONENT else f"{digits}e{exponent}"
