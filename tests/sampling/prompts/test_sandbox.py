"""The Jinja sandbox: refused and allowed operations."""

from __future__ import annotations

import jinja2
import pytest

from sampling.prompts.sandbox import SANDBOX, Null

FIELDS = {"text": "ab", "gone": Null(name="gone"), "deep": {"null": None}, "turns": [{"role": "user"}]}


def render(source: str) -> str:
    return SANDBOX.from_string(source).render(FIELDS)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{{ lipsum(1000) }}",
        "{{ cycler('a') }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ text | attr('__class__') }}",
        "{{ (text | map('upper')).gi_frame }}",
        "{% macro m() %}{% endmacro %}{{ m.__call__.__globals__ }}",
        "{% for c in text %}{{ loop._iterator.gi_frame }}{% endfor %}",
        "{{ deep.update({'a': 1}) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ turns.append(1) }}",
        "{% include 'secrets.txt' %}",
        "{% import 'os' as os %}",
        "{{ missing }}",
        "{{ text.missing }}",
        "{{ gone }}",
        "{{ gone | trim }}",
        "{{ 'x' ~ gone }}",
        "{{ deep.null }}",
        "{{ none }}",
    ],
)
def test_is_refused(source: str) -> None:
    with pytest.raises((jinja2.TemplateError, TypeError)):
        render(source)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ text }}\n", "ab\n"),  # the last newline is kept
        ("{{ text | upper }}{{ text | length * 3 }}{{ 7 % 4 }}", "AB63"),
        ("{% if gone %}yes{% else %}no{% endif %}{{ gone | default('none') }}", "nonone"),
        ("{% for turn in turns %}{{ turn.role }}{% endfor %}", "user"),
        ("{{ '<b>' }}", "<b>"),
    ],
)
def test_is_allowed(source: str, text: str) -> None:
    assert render(source) == text
