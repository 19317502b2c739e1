"""The process that renders prompts: attacks by templates and chat templates end at the bounds, and cost one row."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sampling.bounds import Bounds
from sampling.errors import EngineError, RowError, TemplateError
from sampling.prompts import renderer
from sampling.prompts.renderer import RENDERER
from sampling.prompts.templates import PromptTemplate, RenderError, RenderLimitError, Row
from tests.tiny import byte_tokenizer

BOUNDS = Bounds(render_s=0.3, render_bytes=128 << 20, prompt_chars=1_000_000)
MAX_WALL_S = 20.0  # on a busy machine, for a rendering, or a call into C, that is ended after 3 s of CPU time at most
FIELDS: dict[str, Any] = {"q": "what is 2+2? " * 8, "d": datetime(2020, 1, 1)}
LENGTH, BEYOND = r"bounds\.prompt_chars", r"bounds\.render_(s|bytes)"  # whichever of the two is reached first
ATTACKS = {
    "{{ [1] | tojson(indent=1000000000) | length }}": BEYOND,
    "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('aaaaaaaa') }}": BEYOND,
    "{% set a = (q | list) | join(q) %}{% set b = (a | list) | join(a) %}{{ (b | list) | join(b) | length }}": BEYOND,
    "{% set a = q.replace('', q) %}{% set b = a.replace('', a) %}{{ (b ~ b) | length }}": BEYOND,
    "{{ (1).to_bytes(3000000000, 'big') | length }}": BEYOND,
    "{% set a = q.replace('', q) %}{{ (a ~ a) | wordwrap(1, true, a) | length }}": BEYOND,
    "{% set a = q %}" + "{% set a = a ~ a %}" * 24 + "{{ a | length }}": BEYOND,
    "{% for a in q %}{% for b in q %}{% for c in q %}{% for e in q %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}"
    * 4: BEYOND,
    "{% set a = 9999999999999999 %}" + "{% set a = a * a %}" * 26 + "{{ a > 0 }}": BEYOND,
    "{% for a in q %}{% for b in q %}{{ q }}{% endfor %}{% endfor %}": LENGTH,
    "{{ q * 100000000 }}": BEYOND,
    "{{ 10 ** 100000000 > 1 }}": BEYOND,
    "{{ q.ljust(3000000000) }}": BEYOND,
    "{{ q | batch(1000000000, q) | list | length }}": BEYOND,
    "{{ '{:3000000000}'.format(1) }}": BEYOND,
    "{{ ('\\n' * 1000) | indent(1000000000) }}": BEYOND,
    "{{ 1.5 | round(100000000) }}": "",
}
CHAT_ATTACKS = {
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}": BEYOND,
    "{% for i in range(100000) %}{% for j in range(100000) %}{{ 'a' * 1000 }}{% endfor %}{% endfor %}": BEYOND,
    "{{ 'a' * 3000000000 }}": BEYOND,
    "{{ ('a' * 30000000) * messages | length * 100 }}": BEYOND,
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}": BEYOND,
    "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x > 1 }}": BEYOND,
    "{{ 9 ** (9 ** 9) > 1 }}": BEYOND,
    "{{ 'a' | center(3000000000) }}": BEYOND,
    "{{ '%3000000000d' % 1 }}": BEYOND,
    "{{ messages | tojson(indent=1000000000) }}": BEYOND,
    "{{ lipsum(n=100000) }}": BEYOND,
    "{{ ('a.' * 10000000) | urlize }}": BEYOND,
    "{{ 'a' * 2000000 }}": LENGTH,
    "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}": f"RecursionError|{BEYOND}",  # of Jinja, or of Python's parser
}


def template(source: str, chat: str | None = None, bounds: Bounds = BOUNDS) -> PromptTemplate:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = chat
    return PromptTemplate(tokenizer, style="chat" if chat else "plain", template=source, bounds=bounds)


@pytest.mark.parametrize(
    ("source", "chat", "bound"),
    [
        *((source, None, bound) for source, bound in ATTACKS.items()),
        *(("{{ q }}", chat, bound) for chat, bound in CHAT_ATTACKS.items()),
    ],
)
def test_an_attack_ends_at_a_bound(source: str, chat: str | None, bound: str) -> None:
    start = time.monotonic()
    message = ""
    try:
        text = template(f":{source}", chat).prompt(FIELDS).text
        assert len(text) <= BOUNDS.prompt_chars
    except (RenderError, TemplateError) as error:
        message = str(error)
    assert re.search(bound, message), message
    assert bool(bound) == bool(message)
    assert time.monotonic() - start < MAX_WALL_S
    assert template(":{{ q }}").prompt(FIELDS).text == f":{FIELDS['q']}"  # and others are rendered as before


class Lethal:
    """A field that ends the process that reads it, as one call into C without end would."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


class Broken:
    """A field that no other process can read."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise ValueError("not for others")


def test_the_row_that_ends_the_process_is_the_one_that_fails() -> None:
    fields: list[Any] = [f"row {i}" for i in range(700)]
    fields[300], fields[302] = Lethal(), Broken()
    results = template("{{ q if q is string else 'x' }}").prompts([Row({"q": field}) for field in fields])
    for field, result in zip(fields, results, strict=True):
        if isinstance(field, str):
            assert not isinstance(result, RowError)
            assert result.text == field
        else:
            assert isinstance(result, RenderLimitError if isinstance(field, Lethal) else RenderError)


def test_a_process_that_hangs_or_died_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = template("{{ q }}")
    assert RENDERER._child is not None
    RENDERER._child.process.kill()
    RENDERER._child.process.wait()
    assert prompt.prompt({"q": "a"}).text == "a"
    process = RENDERER._child.process
    worker = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    os.kill(worker, signal.SIGSTOP)
    monkeypatch.setattr(renderer, "WALL_TIME_S", -BOUNDS.render_s + 0.001)
    with pytest.raises(EngineError, match="ended twice, or did not answer within"):  # nor a new one, that fast
        prompt.prompt({"q": "b"})
    monkeypatch.undo()
    assert process.poll() == -signal.SIGKILL
    deadline = time.monotonic() + 5.0
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{worker}").exists()
    assert prompt.prompt({"q": "c"}).text == "c"


def test_one_process_serves_all_templates_and_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    RENDERER.stop()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pids = set()
    for source in ("{{ q }}", "{{ q }}!"):
        template(source, "{{ messages[0].content }}").prompt(FIELDS)
        assert RENDERER._child is not None
        pids.add(RENDERER._child.process.pid)
    (pid,) = pids
    assert b"hf_secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_many_long_prompts_are_sent_and_encoded_in_turns() -> None:
    """Together they would not fit into the renderer's memory."""
    bounds = Bounds(render_bytes=64 << 20, prompt_chars=500_000)
    names = [f"{i}-" for i in range(400)]
    prompts = template("{{ name }}{{ blank.replace(' ', name) }}", bounds=bounds)
    rows = [Row({"name": name, "blank": " " * 100_000}) for name in names]
    for name, result in zip(names, RENDERER.render(prompts._recipe, rows), strict=True):
        assert not isinstance(result, RowError)
        assert result.text == name * 100_001


def test_a_lowered_hard_limit_is_kept() -> None:
    """As by `ulimit -v`: the renderer may not raise it, and blamed the template."""
    lowered = 64 << 30
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({lowered}, {lowered}));"
        "from sampling.prompts.renderer import RENDERER; from sampling.prompts.rendering import Recipe, Row;"
        "recipe = Recipe('x', 'plain', '{{ q }}', None, None, None, (), (), 99, 2.0, 1 << 29);"
        "print(RENDERER.render(recipe, [Row({'q': 'text'})])[0].text)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "text\n"
