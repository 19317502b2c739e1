"""The rendering of sampled text in a terminal: control characters escaped, tokens coloured by α and mode."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sampling.results import MODES, DrawnToken

if TYPE_CHECKING:
    from rich.text import Text

THETA_RGB = (79, 158, 255)  # α = 0
TEACHER_RGB = (255, 158, 61)  # α = 1
MODE_STYLES = {"mixed": "", "forced": "bold underline", "fallback": "reverse"}
LEGEND_STEPS = 10
# Cc moves the cursor or starts an escape sequence, Cf changes the reading direction, Cs cannot be encoded,
# Zl and Zp break lines in some terminals only.
UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
SAFE_CONTROLS = "\n\t\u200c\u200d"  # newline and tab; the two joiners that emoji and Persian need


def escape(text: str) -> str:
    """Return the text with every character that could control a terminal escaped, e.g. ESC as `\\x1b`."""
    return "".join(
        char.encode("unicode_escape").decode()
        if char not in SAFE_CONTROLS and unicodedata.category(char) in UNSAFE_CATEGORIES
        else char
        for char in text
    )


def color_of(alpha: float) -> str:
    """Return a colour between theta's blue (α = 0) and the teacher's orange (α = 1)."""
    red, green, blue = (round(a + alpha * (b - a)) for a, b in zip(THETA_RGB, TEACHER_RGB, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"


def render(token: DrawnToken) -> Text:
    """Return one token in the colour of its α and the style of its mode."""
    from rich.text import Text

    return Text(escape(token.text), style=f"{MODE_STYLES[token.mode]} {color_of(token.alpha)}".strip())


def legend() -> Text:
    """Return the line that explains the colours and styles."""
    from rich.text import Text

    text = Text("theta ")
    for step in range(LEGEND_STEPS + 1):
        text.append("█", style=color_of(step / LEGEND_STEPS))
    text.append(" teacher   (α from 0 to 1)   ")
    for mode in MODES[1:]:
        text.append(mode, style=f"{MODE_STYLES[mode]} {color_of(1.0)}")
        text.append("  ")
    return text


def summary(tokens: Sequence[DrawnToken], elapsed_s: float) -> str:
    """Return the summary of one completion: tokens by mode, mean α, mean logprobs, tokens/s."""
    num = len(tokens)
    if not num:
        return "no token drawn"

    def mean(name: str) -> float:
        return sum(getattr(token, name) for token in tokens) / num

    counts = [f"{sum(token.mode == mode for token in tokens)} {mode}" for mode in MODES]
    logprobs = [f"{name} {mean(f'logprob_{name}'):.2f}" for name in ("q", "theta", "teacher")]
    return (
        f"{num} token{'s' * (num > 1)} ({tokens[-1].finish_reason or 'cut off'}): {', '.join(counts)};"
        f" mean α {mean('alpha'):.2f}; mean logprob {', '.join(logprobs)}; {num / elapsed_s:.1f} tokens/s"
    )
