"""Tests of the terminal rendering: escapes, colours, the legend, the summary."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli.terminal import color_of, escape, legend, render, summary
from sampling.results import MODES, DrawnToken


def token(text: str = "a", mode: str = "mixed", alpha: float = 0.5, **changes: object) -> DrawnToken:
    values: dict[str, object] = {"logprob_q": -1.0, "logprob_theta": -2.0, "logprob_teacher": -3.0} | changes
    return DrawnToken(token_id=1, text=text, mode=mode, alpha=alpha, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain, ünïcode 語 🙂\n\tok", "plain, ünïcode 語 🙂\n\tok"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\rb", r"a\rb"),
        ("\x9b2J", r"\x9b2J"),  # the one-byte escape sequence
        ("\u202eright to left", r"\u202eright to left"),
        ("\u2028", r"\u2028"),
        ("\x07\x08\x00", r"\x07\x08\x00"),
        ("\U000e0041", r"\U000e0041"),  # an invisible tag
        ("👩\u200d👧", "👩\u200d👧"),
    ],
)
def test_control_characters_are_escaped(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    assert not [char for char in escape(text) if unicodedata.category(char) == "Cc" and char not in "\n\t"]
    escape(text).encode()  # a lone surrogate would not be UTF-8


def test_color_goes_from_theta_to_the_teacher() -> None:
    blue, orange = "#4f9eff", "#ff9e3d"
    assert (color_of(0.0), color_of(1.0)) == (blue, orange)
    reds = [int(color_of(step / 10)[1:3], 16) for step in range(11)]
    assert reds == sorted(reds)
    assert len(set(reds)) == 11


def test_a_token_has_the_color_of_its_alpha_and_the_style_of_its_mode() -> None:
    assert str(render(token(alpha=0.0)).style) == "#4f9eff"
    styles = {mode: str(render(token(mode=mode, alpha=1.0)).style) for mode in MODES}
    assert styles == {"mixed": "#ff9e3d", "forced": "bold underline #ff9e3d", "fallback": "reverse #ff9e3d"}
    assert render(token("\x1b[2J[bold]x")).plain == r"\x1b[2J[bold]x"  # no terminal code, no rich markup


def test_the_legend_names_both_models_and_the_modes() -> None:
    line = legend()
    assert all(name in line.plain for name in ("theta", "teacher", "forced", "fallback"))
    assert {"#4f9eff", "#ff9e3d"} <= {str(span.style) for span in line.spans}


def test_the_summary_counts() -> None:
    tokens = [token(mode="forced", alpha=1.0), token(alpha=0.2), token(alpha=0.3, finish_reason="eos")]
    assert summary(tokens, 0.5) == (
        "3 tokens (eos): 2 mixed, 1 forced, 0 fallback; mean α 0.50;"
        " mean logprob q -1.00, theta -2.00, teacher -3.00; 6.0 tokens/s"
    )
    assert summary(tokens[:1], 1.0).startswith("1 token (cut off)")
    assert summary([], 1.0) == "no token drawn"
