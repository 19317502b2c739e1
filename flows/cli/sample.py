"""The `sample` command: streams one answer to the terminal, token by token."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.console import Console

from flows.cli.arguments import option_error
from flows.cli.terminal import escape, legend, render, summary
from flows.orchestration.quiet import quiet
from sampling.config import EngineConfig, MixtureConfig, SamplingConfig
from sampling.errors import ConfigurationError, RowError
from sampling.prompts.dual_prompt import DualPrompt
from sampling.prompts.templates import PromptTemplate
from sampling.results import DrawnToken

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sampling import DualSampler

CHAT = "{{ question }}{% if reference %}\nHint: {{ reference }}{% endif %}"
PLAIN = "{% if system %}{{ system }}\n\n{% endif %}Q: " + CHAT + "\nA:"


def sample(args: argparse.Namespace) -> None:
    """Stream the answer to stdout, coloured if that is a terminal; print the summary to stderr."""
    if not args.question.strip():
        raise ConfigurationError("the question is empty; give a text")
    fixed = {"alpha_method": "fixed", "alpha": args.alpha} if args.alpha is not None else {}
    try:
        mixture = MixtureConfig.preset(args.preset, **{"alpha_method": args.alpha_method, **fixed})
        sampling = SamplingConfig(max_tokens=args.max_tokens, temperature=args.temperature, seed=args.seed)
    except ValidationError as error:
        raise option_error(error) from None
    from sampling import DualSampler

    with quiet(not args.debug):
        sampler = DualSampler(args.teacher, args.theta, mixture, EngineConfig(max_num_seqs=1))
    with sampler:
        answer(sampler, sampling, args.question, args.system, args.reference)


def answer(
    sampler: DualSampler,
    sampling: SamplingConfig,
    question: str,
    system: str | None = None,
    reference: str | None = None,
) -> None:
    """Stream one answer; `reference` is a hint in the teacher's prompt alone.

    Raise ConfigurationError when the question cannot be sampled.
    """
    fields = {"question": question, "system": system, "reference": None}
    try:
        prompt = DualPrompt(
            teacher=_prompt(sampler.teacher_tokenizer, fields | {"reference": reference}),
            theta=_prompt(sampler.theta_tokenizer, fields),
            id="sample",
        )
        start = time.monotonic()
        tokens = asyncio.run(_stream(sampler, prompt, sampling))
    except RowError as error:
        raise ConfigurationError(str(error)) from error
    print(summary(tokens, time.monotonic() - start), file=sys.stderr)


def _prompt(tokenizer: PreTrainedTokenizerBase, fields: dict[str, str | None]) -> str:
    """Return the question in the model's chat template, or as plain lines for a model without one."""
    if tokenizer.chat_template:
        template = PromptTemplate(tokenizer, style="chat", template=CHAT, system="{{ system | default('') }}")
    else:
        template = PromptTemplate(tokenizer, style="plain", template=PLAIN)
    return template.prompt(fields).text


async def _stream(sampler: DualSampler, prompt: DualPrompt, sampling: SamplingConfig) -> list[DrawnToken]:
    console = Console(highlight=False, soft_wrap=True)
    if console.is_terminal:
        console.print(legend())
    tokens = []
    async for token in sampler.stream(prompt, sampling):
        tokens.append(token)
        if console.is_terminal:
            console.print(render(token), end="")
        else:
            print(escape(token.text), end="", flush=True)
    print(flush=True)
    return tokens
