"""Numbers, formulas, units and lists as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from validations.text.notation import Quantity, items, plain, quantity, rewritten


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$\\frac{1}{2}$", "\\frac{1}{2}"),
        ("**x + y**.", "x + y"),
        ("\\(B\\)", "B"),
        ("\\textbf{(B)}", "B"),
        ("(1, 2)", "(1, 2)"),
        ("2**3", "2^3"),
        ("“Paris”。", "Paris"),
        (".5", ".5"),
        ("***", ""),
    ],
)
def test_plain(text: str, expected: str) -> None:
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("½", "1/2"),
        ("2½", "5/2"),
        ("2 1/2", "5/2"),
        ("√2 + √(x+1)", "\\sqrt{2} + \\sqrt{x+1}"),
        ("1,200", "1200"),
        ("1\\,200", "1200"),
        ("1{,}200", "1200"),
        ("1 200 000", "1200000"),
        ("1,2000", "1,2000"),
        ("1, 200", "1, 200"),
        ("1e6", "1000000"),
        ("1.6e-3", "0.0016"),
        ("1e999999", "1e999999"),
        ("10^-3", "10^{-3}"),
        ("10⁻¹⁹", "10^{-19}"),
        ("3.5 million", "3500000"),
        ("2 dozen eggs", "24 eggs"),
    ],
)
def test_rewritten(text: str, expected: str) -> None:
    assert rewritten(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18 dollars", Quantity("18", "dollars")),
        ("\\$18", Quantity("18", "$")),
        ("$18", Quantity("18", "$")),
        ("€20", Quantity("20", "€")),
        ("5\\text{ cm}", Quantity("5", "cm")),
        ("3 red balls", Quantity("3", "red balls")),
        ("50\\%", Quantity("50", "%")),
        ("2xy", Quantity("2xy")),
        ("5 i", Quantity("5 i")),
        ("\\sin x", Quantity("\\sin x")),
        ("Paris", None),
        ("B", None),
        ("", None),
        ("2019-03-05", None),
        ("2-1", None),
        ("10:30 pm", None),
        ("December 25th", None),
    ],
)
def test_quantity(text: str, expected: Quantity | None) -> None:
    assert quantity(text) == expected


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("km/h", ("length/time", Fraction(1000, 3600))),
        ("miles per hour", ("length/time", Fraction(201168, 125 * 3600))),
        ("square meters", ("length^2", Fraction(1))),
        ("cm^2", ("length^2", Fraction(1, 10_000))),
        ("dollars", ("dollar", Fraction(1))),
        ("apples", None),
    ],
)
def test_size_of_a_unit(unit: str, size: tuple[str, Fraction] | None) -> None:
    assert Quantity("1", unit).size() == size


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("7", ("", ["7"])),
        ("1, 2", ("", ["1", "2"])),
        ("1, 2 and 3", ("", ["1", "2", "3"])),
        ("(1, (2, 3))", ("()", ["1", "(2, 3)"])),
        ("\\{1, 2\\}", ("{}", ["1", "2"])),
        ("(1, 2) \\cup (3, 4)", ("", ["(1, 2) \\cup (3, 4)"])),
        ("[1, 2)", ("", ["[1, 2)"])),
        ("1 \\pm x", ("", ["1 + x", "1 - x"])),
    ],
)
def test_items(formula: str, expected: tuple[str, list[str]]) -> None:
    assert items(formula) == expected
