"""An HTTP client that reads next-token logprobs from one model's vLLM servers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import tenacity

from sampling.bounds import Bounds
from sampling.errors import (
    ConfigurationError,
    EmptyPromptError,
    PromptTooLongError,
    RowError,
    ServerError,
    ServerRefusedError,
)
from sampling.served.config import HttpConfig
from sampling.served.refusals import TryError
from sampling.served.replicas import Replica, Replicas
from sampling.served.replies import NextToken, ReplyError, pick, read_logprobs, top_of
from sampling.served.server_info import NUM_NAMED_IDS, ServerInfo, completion, discover
from sampling.served.transport import Transport, root_of

MAX_BACK_OFF_S = 30.0
REPLY_BYTES, LOGPROB_BYTES = 64 << 10, 200  # the most of a completion, and of each logprob: vLLM's take 40

T = TypeVar("T")


class ModelClient:
    """A client of the replicas of one model.

    `urls` are the replicas' addresses, with or without /v1. `served_name` is the name the model is served by, `model`
    its folder or Hub id, whose last part the served name must match when `served_name` is None (None for both: the
    first model listed). Raises ConfigurationError for an invalid URL or none.
    """

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        config: HttpConfig,
        *,
        api_key: str | None = None,
        served_name: str | None = None,
        model: str | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.name = name
        self.num_requests = 0
        self.num_retries = 0
        self._config = config
        self._names = served_name, model
        self._info: ServerInfo | None = None
        self._replicas = Replicas(name, [root_of(name, url) for url in dict.fromkeys(urls)], config, self._check)
        if not self._replicas.all:
            raise ConfigurationError(f"no URL of {name}'s server; give at least one")
        self._slots = asyncio.Semaphore(config.max_in_flight)
        self._transport = Transport(name, config, api_key, bounds or Bounds())

    def share_batch_locks(self, other: ModelClient) -> None:
        """Use the other client's batch lock for every server that both clients send requests to."""
        locks = {replica.url: replica.batch_lock for replica in other._replicas.all}
        for replica in self._replicas.all:
            replica.batch_lock = locks.get(replica.url, replica.batch_lock)

    @property
    def info(self) -> ServerInfo:
        """What the servers serve; known after `open`."""
        assert self._info is not None, "open the client first"
        return self._info

    async def open(self) -> None:
        """Query every replica's ServerInfo, with retries; leave out replicas that fail while another one answers.

        Raises ServerRefusedError when a server serves something else, ServerError when none answers.
        """
        replicas = self._replicas.all
        try:
            outcomes = await asyncio.gather(
                *(self._retrying()(self._check, replica) for replica in replicas), return_exceptions=True
            )
            for replica, outcome in zip(replicas, outcomes, strict=True):
                if isinstance(outcome, TryError):
                    replica.last_error = str(outcome)
                elif isinstance(outcome, BaseException):
                    raise outcome
            if self._info is None:
                raise self._no_answer()
            for replica, outcome in zip(replicas, outcomes, strict=True):
                if outcome is not None:
                    self._replicas.leave_out(replica)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every connection, which aborts the requests that the servers still process."""
        await self._replicas.close()
        await self._transport.close()

    async def _check(self, replica: Replica) -> None:
        """Query a replica's ServerInfo. Raises TryError, or ServerRefusedError where it differs from the others'."""

        async def ask(method: str, path: str, body: Mapping[str, Any] | None) -> Any:
            content = None if body is None else json.dumps(body).encode()
            return await self._transport.send(replica, method, path, content)

        info = await discover(self.name, replica.url, ask, *self._names)
        if self._info is None:
            self._info = info
        elif info != self._info:
            others = ", ".join(other.url for other in self._replicas.all if other is not replica)
            raise ServerRefusedError(
                f"{self.name}'s servers disagree: {self._info.differences(info)} "
                f"({others or 'as it was before'}, then {replica.url}); let all serve the same"
            )

    async def next_token(
        self, prompt_ids: Sequence[int], top_k: int, named_ids: Sequence[int] = (), *, row: int | None = None
    ) -> NextToken:
        """Return the `top_k` likeliest next tokens (-1: all, 0: none) and the `named_ids` that are not among them.

        Sends one request for the top-k, then one for every 64 missing named ids. A named id 0 at −inf is dropped: vLLM
        may have put that there for another request. Requests with the same `row` go to one replica where possible,
        whose prefix cache holds the row. Raises EmptyPromptError, PromptTooLongError and NonFiniteLogitsError (errors
        of the row), ServerRefusedError when the server cannot return as much, ServerError when no replica answers.
        """
        info, prompt = self.info, list(prompt_ids)
        if not prompt:
            raise EmptyPromptError(f"an empty prompt for {self.name}")
        if len(prompt) >= info.max_model_len:
            raise PromptTooLongError(
                f"a prompt of {len(prompt)} tokens for {self.name}, whose server's max_model_len of "
                f"{info.max_model_len} holds the next token, too"
            )
        top_k = info.vocab_size if top_k == -1 else min(top_k, info.vocab_size)  # a larger one crashes vLLM's top-k
        if top_k > info.max_logprobs:
            raise ServerRefusedError(
                f"{self.name}'s server gives {info.max_logprobs} logprobs, not {top_k}; "
                f"start it with --max-logprobs {top_k}"
            )
        token = NextToken(np.zeros(0, np.int64), np.zeros(0), 0)
        if top_k:
            num_logprobs = -1 if top_k == info.vocab_size else top_k
            token = await self._complete(
                prompt, lambda ids, logprobs: top_of(ids, logprobs, top_k), row, logprobs=num_logprobs
            )
        present = set(token.ids.tolist())
        missing = [token_id for token_id in dict.fromkeys(named_ids) if token_id not in present]
        if missing and not info.can_name_ids:
            raise ServerRefusedError(
                f"{self.name}'s server (vLLM {info.version}) gives no logprobs of named ids; "
                "serve it with a vLLM that has logprob_token_ids"
            )
        for start in range(0, len(missing), NUM_NAMED_IDS):
            token = token.extended(*await self._named(prompt, missing[start : start + NUM_NAMED_IDS], row))
        return token

    async def _named(self, prompt: list[int], named_ids: list[int], row: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return at most NUM_NAMED_IDS ids [N] int64 and their logprobs [N] float64."""
        others = (token_id for token_id in range(self.info.vocab_size) if token_id not in named_ids)
        padded = [*named_ids, *islice(others, NUM_NAMED_IDS - len(named_ids))]
        wanted = {"logprobs": 1, "logprob_token_ids": padded}  # the named ids replace the top-k
        logprobs = await self._complete(prompt, lambda ids, logprobs: pick(ids, logprobs, named_ids), row, **wanted)
        ids = np.array(named_ids, np.int64)
        is_known = (ids != 0) | ~np.isneginf(logprobs)
        return ids[is_known], logprobs[is_known]

    async def _complete(
        self, prompt: list[int], read: Callable[[np.ndarray, np.ndarray], T], row: int | None, **wanted: Any
    ) -> T:
        """Request one token's logprobs; return `read` of its ids and logprobs."""

        def checked(reply: Any) -> T:
            return read(*read_logprobs(reply, self.info.vocab_size, len(prompt)))

        body = completion(self.info.model, prompt, **wanted)
        num_ids = self.info.vocab_size if wanted["logprobs"] == -1 else wanted["logprobs"]
        num_ids += len(wanted.get("logprob_token_ids", ()))
        max_bytes = REPLY_BYTES + num_ids * LOGPROB_BYTES
        names_ids = "logprob_token_ids" in wanted
        return await self._post("/v1/completions", body, checked, row, names_ids, max_bytes)

    async def tokenize(self, text: str) -> list[int]:
        """Return the token ids of `text` by the server's tokenizer, without special tokens."""
        body = {"model": self.info.model, "prompt": text, "add_special_tokens": False}
        return await self._post("/tokenize", body, _tokens)

    async def _post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        row: int | None = None,
        names_ids: bool | None = None,  # None: a request that needs no batch
        max_bytes: int | None = None,  # of the reply
    ) -> T:
        """Return `read` of the reply, which raises ReplyError for a malformed one; retry on any replica."""
        content = json.dumps(body).encode()
        tried: set[Replica] = set()

        async def once() -> T:
            replica = await self._replicas.take(row, tried)
            tried.add(replica)
            async with nullcontext() if names_ids is None else replica.batch_lock.hold(names_ids):
                started_at = time.monotonic()
                try:
                    result = read(await self._transport.send(replica, "POST", path, content, max_bytes))
                except TryError as error:
                    self._replicas.failed(replica, error, started_at)
                    raise
                except RowError:
                    self._replicas.succeeded(replica)
                    raise
            self._replicas.succeeded(replica)
            return result

        self.num_requests += 1
        async with self._slots:
            try:
                return await self._retrying()(once)
            except TryError as error:
                raise self._no_answer() from error

    def _retrying(self) -> tenacity.AsyncRetrying:
        """Return a new retry controller; one controller cannot serve concurrent requests."""
        half, most = self._config.retry_delay_s / 2, MAX_BACK_OFF_S / 2
        return tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._config.retries + 1),
            # half of the wait is random, so that rows that failed together are not sent again together
            wait=tenacity.wait_exponential(half, most) + tenacity.wait_random_exponential(half, most),
            retry=tenacity.retry_if_exception_type(TryError),
            before_sleep=self._count_retry,
            sleep=asyncio.sleep,
            reraise=True,
        )

    def _count_retry(self, state: tenacity.RetryCallState) -> None:
        self.num_retries += 1

    def _no_answer(self) -> ServerError:
        return ServerError(
            f"{self.name}'s servers do not answer after {self._config.retries + 1} tries "
            f"({self._replicas.describe()}); look at their logs, start them again, then run the same command"
        )


def _tokens(reply: Any) -> list[int]:
    try:
        token_ids = list(reply["tokens"])
    except (KeyError, TypeError) as error:
        raise ReplyError("a reply without token ids") from error
    if not all(type(token_id) is int and token_id >= 0 for token_id in token_ids):  # not Infinity, 1.5, true, "7"
        raise ReplyError("a reply with token ids that are none")
    return token_ids
