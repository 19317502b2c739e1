"""The discovery of what a vLLM server serves, before the first token."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from sampling.errors import NonFiniteLogitsError, ServerRefusedError
from sampling.served.refusals import one_line
from sampling.served.replies import ROUNDING, ReplyError, read_logprobs

# vLLM takes 128 (MAX_LOGPROB_TOKEN_IDS). Every request names this many: where the numbers of a batch differ, vLLM 0.32
# pads the shorter lists with id 0 at −inf, which would hide the logprob of id 0.
NUM_NAMED_IDS = 64
PROBE_IDS = (0, 1, 2)
ALLOWED = re.compile(r"logprobs of (\d+), which is greater than max allowed: (\d+)")

# Sends one request to one replica, once: method, path, body → the reply's JSON.
Ask = Callable[[str, str, Mapping[str, Any] | None], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The model and limits of a server. Replicas of one model agree in all but the version."""

    model: str  # the name that requests give
    max_model_len: int  # prompt and completion, tokens
    vocab_size: int  # the logits' width: the tokenizer's ids and padding columns
    max_logprobs: int  # the largest top-k, at most vocab_size
    can_name_ids: bool  # whether it returns logprobs of named ids (`logprob_token_ids`)
    version: str = field(compare=False)  # vLLM's; "unknown" where a gateway hides it

    def differences(self, other: ServerInfo) -> str:
        """Return the fields that differ, e.g. 'max_model_len 512 and 1024'; '' where none does."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return ", ".join(f"{name} {a} and {b}" for name, a, b in pairs if a != b and name != "version")


def completion(model: str, prompt_ids: list[int], **wanted: Any) -> dict[str, Any]:
    """Return the body of a request for one token's logprobs.

    Every sampling parameter is set: a server takes the others from the model's own generation_config, which would
    change logprobs under `--logprobs-mode processed_logprobs`. No seed: with one, vLLM 0.32 crashes on CPU.
    """
    return {
        "model": model,
        "prompt": prompt_ids,
        "max_tokens": 1,
        "min_tokens": 0,
        "ignore_eos": True,
        "temperature": 0,
        "top_p": 1,
        "top_k": 0,
        "min_p": 0,
        "repetition_penalty": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "return_tokens_as_token_ids": True,
        **wanted,
    }


async def discover(name: str, url: str, ask: Ask, served_name: str | None, model: str | None = None) -> ServerInfo:
    """Return the ServerInfo of the server at `url`.

    Without `served_name` the server must list a model whose name ends as `model`, a folder or Hub id, does: nothing
    else distinguishes two models of one tokenizer. Without either, the first listed model is taken. Raises
    ServerRefusedError when it serves something else or no logprobs, ReplyError for a malformed reply.
    """
    server = f"{name}'s server {url}"
    cards = _cards(await ask("GET", "/v1/models", None))
    card = next((card for card in cards if _fits(card, served_name, model)), None)
    if card is None:
        served = one_line(", ".join(card["id"] for card in cards))
        raise ServerRefusedError(
            f"{server} serves {served}, not {served_name or model}; give its own address, or the name that it is served"
            f" by (models.{name}.served_name)"
        )
    lengths = [card.get("max_model_len"), *(other.get("max_model_len") for other in cards)]  # an adapter's may be null
    max_model_len = next((length for length in lengths if isinstance(length, int)), None)
    if max_model_len is None:
        raise ServerRefusedError(f"{server} does not say its max_model_len; start a server of `vllm serve` there")
    try:
        vocab_size, max_logprobs = await _limits(server, card["id"], ask)
        can_name_ids = await _can_name_ids(card["id"], ask, vocab_size)
    except NonFiniteLogitsError as error:
        raise ServerRefusedError(f"{server} gives no numbers even for the prompt [0]: {error}") from error
    return ServerInfo(card["id"], max_model_len, vocab_size, max_logprobs, can_name_ids, await _version(ask))


def _fits(card: Mapping[str, Any], served_name: str | None, model: str | None) -> bool:
    if served_name is not None or not model:
        return served_name in (None, card["id"])
    names = {str(name).rstrip("/").rpartition("/")[2].lower() for name in (card["id"], card.get("root") or "")}
    return model.rstrip("/").rpartition("/")[2].lower() in names


def _cards(reply: Any) -> list[dict[str, Any]]:
    try:
        cards = [{**card, "id": str(card["id"])} for card in reply["data"]]
    except (KeyError, TypeError) as error:
        raise ReplyError("a list of models that is none") from error
    if not cards:
        raise ReplyError("a list of models that is empty")
    return cards


async def _limits(server: str, model: str, ask: Ask) -> tuple[int, int]:
    """Return the number of the model's ids and the largest top-k, both from a request for all ids or its refusal."""
    try:
        reply = await ask("POST", "/v1/completions", completion(model, [0], logprobs=-1))
    except ServerRefusedError as error:
        if (found := ALLOWED.search(str(error))) is None:
            raise
        vocab_size, max_logprobs = int(found[1]), int(found[2])
        if max_logprobs < 1:
            raise ServerRefusedError(f"{server} gives no logprobs; start it with --max-logprobs 20 or more") from error
        return vocab_size, max_logprobs
    ids, logprobs = read_logprobs(reply)
    mass = float(np.exp(logprobs).sum())
    if len(ids) != ids.max() + 1 or abs(mass - 1) > ROUNDING:
        raise ServerRefusedError(
            f"{server} gives logprobs of all {len(ids)} ids that sum to {mass:.4g}, not 1; "
            "start it with --logprobs-mode raw_logprobs"
        )
    return len(ids), len(ids)


async def _can_name_ids(model: str, ask: Ask, vocab_size: int) -> bool:
    """Return whether a request for logprobs of named ids returns them: servers ignore unknown fields."""
    named = [token_id for token_id in PROBE_IDS if token_id < vocab_size]
    try:
        reply = await ask("POST", "/v1/completions", completion(model, [0], logprobs=1, logprob_token_ids=named))
    except ServerRefusedError:
        return False
    ids, _ = read_logprobs(reply, vocab_size)
    return set(named) <= set(ids.tolist())  # top-1 alone holds two ids at most


async def _version(ask: Ask) -> str:
    try:
        return one_line(str((await ask("GET", "/version", None))["version"]))
    except (ServerRefusedError, KeyError, TypeError):
        return "unknown"
