"""Comparison of mathematical answers by math-verify and sympy; it may hang, so only child processes use it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from validations.text.literals import COPULA
from validations.text.notation import LITERAL, Quantity, items, plain, quantity, rewritten

# What follows is a reason or the next sentence.
REASON = re.compile(
    r"[.?。](?=\s|$)|,?\s\(?(?:because|since|as|so|not|which|where|when|that|from|for|who|after|each|every|in|on|at|with|during)\b",
    re.IGNORECASE,
)
SEVERAL = re.compile(r" (?:and|or) |, ")
NUMBERS = re.compile(r"\d[\d.,/]*")
NAMED = re.compile(r"^ *(?:[A-Za-z] *\\in\b|\([a-z](?: ?, ?[a-z]){1,3}\) ?=) *")  # x ∈ [1, 2), (x, y) = (2, 3)
# Relative: of a decimal for a value that no decimal states (1/3, π), of floats with 15 digits, of 30 exact digits.
ROUNDED, FLOAT, EXACT = 2e-6, 1e-13, 1e-25


class Comparison:
    """Comparison of formulas, parsed once each."""

    def __init__(self) -> None:
        from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

        self._boxed: Callable[[str], list[Any]] = lru_cache(64)(
            lambda formula: parse(
                f"\\boxed{{{formula}}}", [LatexExtractionConfig()], "no_fallback", parsing_timeout=None
            )
        )
        self._found: Callable[[str], list[Any]] = lambda text: parse(
            text, [LatexExtractionConfig(), ExprExtractionConfig()], "no_fallback", parsing_timeout=None
        )

    def is_right(self, given: str, is_marked: bool, answer: str) -> bool:
        """Return whether a final answer, or the number in its sentence, equals the mathematical reference."""
        wanted = quantity(answer)
        assert wanted is not None, "compare texts"
        sentence = _first_part(given) if is_marked else given
        texts = [sentence]
        if not is_marked and (copulas := list(COPULA.finditer(given))):
            texts.insert(SEVERAL.search(given) is not None, _first_part(given[copulas[-1].end() :]))
        for text in texts:
            if (found := quantity(text)) is not None:
                return self._same_quantity(wanted, found)
        if LITERAL.fullmatch(plain(sentence)) or (is_marked and len(NUMBERS.findall(sentence)) > 1):
            return False
        gold = self._boxed(wanted.formula)
        return bool(gold) and any(self._same(gold[0], each) for each in self._found(rewritten(sentence)))

    def _same_quantity(self, wanted: Quantity, found: Quantity) -> bool:
        formula = found.formula
        if "%" in (wanted.unit, found.unit):
            shares = [
                f"\\frac{{{each.formula}}}{{100}}" if each.unit == "%" else each.formula for each in (wanted, found)
            ]
            return self._same_items(wanted.formula, formula) or self._same_items(*shares)
        sizes = wanted.size(), found.size()
        if sizes[0] and sizes[1]:
            if sizes[0][0] != sizes[1][0]:
                return False
            if (ratio := sizes[1][1] / sizes[0][1]) != 1:
                formula = f"\\frac{{{ratio.numerator}}}{{{ratio.denominator}}} \\cdot ({formula})"
        return self._same_items(wanted.formula, formula)

    def _same_items(self, wanted: str, found: str) -> bool:
        (brackets, golds), (others, given) = (items(NAMED.sub("", formula)) for formula in (wanted, found))
        if "()" in (brackets, others) and len(golds) != len(given):  # -5 < x < 5 is (-5, 5)
            return self._same_formula(wanted, found)
        if len(golds) != len(given) or {brackets, others} == {"()", "{}"}:
            return False
        if "()" in (brackets, others):
            return all(map(self._same_formula, golds, given))
        rest = list(given)
        for gold in golds:  # in any order
            match = next((each for each in rest if self._same_formula(gold, each)), None)
            if match is None:
                return False
            rest.remove(match)
        return True

    def _same_formula(self, wanted: str, found: str) -> bool:
        gold, given = self._boxed(wanted), self._boxed(found)
        return bool(gold and given) and self._same(gold[0], given[0])

    def _same(self, gold: Any, given: Any) -> bool:
        from math_verify import verify

        numbers = [_as_number(each) for each in (gold, given)]
        if all(number is not None for number in numbers):
            return _same_number(*numbers)
        return bool(verify(gold, given, float_rounding=12, allow_set_relation_comp=True, timeout_seconds=None))


def _first_part(text: str) -> str:
    """Return a text up to its reason, or the end of its first sentence."""
    cut = REASON.search(text)
    return text[: cut.start()] if cut and cut.start() else text


def _as_number(expression: Any) -> Any | None:
    """Return an expression that is a number, with i as the imaginary unit, else None."""
    from sympy import Expr, I

    if not isinstance(expression, Expr):
        return None
    expression = expression.subs({symbol: I for symbol in expression.free_symbols if str(symbol) == "i"})
    return expression if expression.is_number else None


def _same_number(gold: Any, given: Any) -> bool:
    """Compare relative to the size: math-verify rounds to 6 decimals, by which 1.6e-19 is 6.6e-34."""
    from sympy import Float, N

    size = max(abs(N(gold, 30)), abs(N(given, 30)))
    if gold == given or not size.is_finite:
        return bool(gold == given)
    tolerance = EXACT
    if gold.has(Float) or given.has(Float):
        tolerance = FLOAT if all(map(_is_decimal, (gold, given))) else ROUNDED
    return bool(abs(N(gold - given, 30)) <= tolerance * size)


def _is_decimal(number: Any) -> bool:
    """Return whether a decimal can state the number: 1/8, not 1/3."""
    from sympy import Float, Rational

    number = number.doit()
    if isinstance(number, Rational):
        return bool(10 ** min(number.q.bit_length(), 1000) % number.q == 0)
    return bool(number.has(Float))
