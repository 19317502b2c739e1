"""One model that is served elsewhere."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random_exponential,
)

from sampling.errors import (
    ConfigurationError,
    DualSamplingError,
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
from sampling.served.server_info import NUM_NAMED_IDS, ServerFacts, completion, discover
from sampling.served.transport import Transport, root_of

MAX_BACK_OFF_S = 30.0

T = TypeVar("T")

__all__ = ["ModelClient", "NextToken"]


class ModelClient:
    """Asks the servers of one model, which are replicas of each other, for logprobs.

    `urls` are theirs, with or without /v1; `served_name` is the name they serve it by, `model` its folder or Hub id,
    whose last part that name must else have (None for both: the first they list).
    An async context manager: entering it asks every replica for its facts. Raises ConfigurationError for a URL
    that is none, ServerRefusedError when a server serves something else, ServerError when none answers.
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
    ) -> None:
        self.name = name
        self.num_requests = 0
        self.num_retries = 0
        self._config = config
        self._names = served_name, model
        self._facts: ServerFacts | None = None
        self._replicas = Replicas(name, [root_of(name, url) for url in dict.fromkeys(urls)], config, self._check)
        if not self._replicas.all:
            raise ConfigurationError(f"no URL of {name}'s server; give at least one")
        self._slots = asyncio.Semaphore(config.max_in_flight)
        self._wire = Transport(name, config, api_key)

    def share_turns(self, other: ModelClient) -> None:
        """Take turns with another client's requests at the servers that both ask."""
        for replica in self._replicas.all:
            for theirs in other._replicas.all:
                if theirs.url == replica.url:
                    replica.batch_lock = theirs.batch_lock

    @property
    def info(self) -> ServerFacts:
        """What the servers are; known once the client was entered."""
        assert self._facts is not None, "enter the client first"
        return self._facts

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Ask every replica what it is."""
        try:
            await self._open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every connection, which ends what the servers still work on."""
        await self._replicas.close()
        await self._wire.close()

    async def _open(self) -> None:
        """Check every replica, with retries; leave out those that do not answer as long as one does."""
        outcomes = await asyncio.gather(
            *(self._retrying()(self._check, replica) for replica in self._replicas.all), return_exceptions=True
        )
        for replica, outcome in zip(self._replicas.all, outcomes, strict=True):
            if isinstance(outcome, TryError):
                replica.last_error = str(outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
        if self._facts is None:
            raise self._gone()
        for replica, outcome in zip(self._replicas.all, outcomes, strict=True):
            if outcome is not None:
                self._replicas.leave_out(replica)

    async def _check(self, replica: Replica) -> None:
        """Ask a replica what it is. Raises TryError, or ServerRefusedError where it differs from the others."""

        async def ask(method: str, path: str, body: Mapping[str, Any] | None) -> Any:
            return await self._wire.send(replica, method, path, None if body is None else json.dumps(body).encode())

        try:
            info = await discover(self.name, replica.url, ask, *self._names)
        except ReplyError as error:
            raise TryError(str(error)) from error
        if self._facts is None:
            self._facts = info
        elif info != self._facts:
            others = ", ".join(other.url for other in self._replicas.all if other is not replica)
            raise ServerRefusedError(
                f"{self.name}'s servers disagree: {self._facts.differences(info)} "
                f"({others or 'as it was before'}, then {replica.url}); let all serve the same"
            )

    async def next_token(
        self, prompt_ids: Sequence[int], top_k: int, named_ids: Sequence[int] = (), *, row: int | None = None
    ) -> NextToken:
        """The `top_k` likeliest next tokens (-1: all, 0: none) with the `named_ids` that are not among them.

        One request gives the top-k, a further one each 64 named ids that it lacks. A named id 0 is left out where the
        server gives it −inf, which may be another request's doing. Requests of one `row` stay on one replica where they
        can, whose prefix cache holds it. Raises EmptyPromptError, PromptTooLongError and
        NonFiniteLogitsError (matters of the row), ServerRefusedError when the server cannot give as much as asked
        for, ServerError when no replica answers.
        """
        info, prompt = self.info, list(prompt_ids)
        if not prompt:
            raise EmptyPromptError(f"an empty prompt for {self.name}")
        if len(prompt) >= info.max_model_len:
            raise PromptTooLongError(
                f"a prompt of {len(prompt)} tokens for {self.name}, whose server's max_model_len of "
                f"{info.max_model_len} holds the next token, too"
            )
        top_k = info.vocab_size if top_k == -1 else min(top_k, info.vocab_size)  # more crashes vLLM's top-k
        if top_k > info.max_logprobs:
            raise ServerRefusedError(
                f"{self.name}'s server gives {info.max_logprobs} logprobs, not {top_k}; "
                f"start it with --max-logprobs {top_k}"
            )
        token = NextToken(np.zeros(0, np.int64), np.zeros(0), 0)
        if top_k:
            wanted = {"logprobs": -1 if top_k == info.vocab_size else top_k}
            token = await self._complete(prompt, wanted, lambda ids, logprobs: top_of(ids, logprobs, top_k), row)
        held = set(token.ids.tolist())
        missing = [token_id for token_id in dict.fromkeys(named_ids) if token_id not in held]
        if missing and not info.can_name_ids:
            raise ServerRefusedError(
                f"{self.name}'s server (vLLM {info.version}) gives no logprobs of named ids; "
                "serve it with a vLLM that has logprob_token_ids"
            )
        for start in range(0, len(missing), NUM_NAMED_IDS):
            ids, logprobs = await self._named(prompt, missing[start : start + NUM_NAMED_IDS], row)
            token = NextToken(
                np.concatenate([token.ids, ids]), np.concatenate([token.logprobs, logprobs]), token.num_top
            )
        return token

    async def _named(self, prompt: list[int], named_ids: list[int], row: int | None) -> tuple[Any, Any]:
        """At most NUM_NAMED_IDS ids [N] int64 with their logprobs [N] float64."""
        others = (token_id for token_id in range(self.info.vocab_size) if token_id not in named_ids)
        filled = [*named_ids, *islice(others, NUM_NAMED_IDS - len(named_ids))]
        wanted = {"logprobs": 1, "logprob_token_ids": filled}  # they take the place of the top-k
        logprobs = await self._complete(prompt, wanted, lambda ids, logprobs: pick(ids, logprobs, named_ids), row)
        ids = np.array(named_ids, np.int64)
        is_said = (ids != 0) | ~np.isneginf(logprobs)
        return ids[is_said], logprobs[is_said]

    async def _complete(
        self,
        prompt: list[int],
        wanted: Mapping[str, Any],
        read: Callable[[np.ndarray, np.ndarray], T],
        row: int | None,
    ) -> T:
        body = completion(self.info.model, prompt, **wanted)

        def checked(reply: Any) -> T:
            return read(*read_logprobs(reply, self.info.vocab_size, len(prompt)))

        return await self._ask("/v1/completions", body, checked, row, names_ids="logprob_token_ids" in wanted)

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of `text` by the server's tokenizer, without special tokens."""
        body = {"model": self.info.model, "prompt": text, "add_special_tokens": False}
        return await self._ask("/tokenize", body, _tokens)

    async def _ask(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        row: int | None = None,
        names_ids: bool | None = None,  # None: it does not reach the model
    ) -> T:
        """What `read` makes of the reply, with retries on any replica; `read` raises ReplyError for a bad one."""
        content = json.dumps(body).encode()
        tried: set[Replica] = set()

        async def once() -> T:
            replica = await self._replicas.take(row, tried)
            tried.add(replica)
            turn = nullcontext() if names_ids is None else replica.batch_lock.of(names_ids)
            async with turn:
                started_at = time.monotonic()
                try:
                    answer = read(await self._wire.send(replica, "POST", path, content))
                except ReplyError as error:
                    failure = TryError(str(error))
                    self._replicas.failed(replica, failure, started_at)
                    raise failure from error
                except TryError as error:
                    self._replicas.failed(replica, error, started_at)
                    raise
                except RowError:
                    self._replicas.succeeded(replica)
                    raise
            self._replicas.succeeded(replica)
            return answer

        self.num_requests += 1
        async with self._slots:
            try:
                return await self._retrying()(once)
            except TryError as error:
                raise self._gone() from error

    def _retrying(self) -> AsyncRetrying:
        """A fresh controller: one is not made for several requests at a time."""
        half = self._config.retry_delay_s / 2
        return AsyncRetrying(
            stop=stop_after_attempt(self._config.retries + 1),
            # half of it by chance, so that rows that failed together do not come back together
            wait=wait_exponential(half, MAX_BACK_OFF_S / 2) + wait_random_exponential(half, MAX_BACK_OFF_S / 2),
            retry=retry_if_exception_type(TryError),
            before_sleep=self._count_retry,
            sleep=asyncio.sleep,
            reraise=True,
        )

    def _count_retry(self, state: RetryCallState) -> None:
        self.num_retries += 1

    def _gone(self) -> DualSamplingError:
        return ServerError(
            f"{self.name}'s servers do not answer after {self._config.retries + 1} tries "
            f"({self._replicas.describe()}); look at their logs, start them again, then run the same command"
        )


def _tokens(reply: Any) -> list[int]:
    try:
        return [int(token_id) for token_id in reply["tokens"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ReplyError("a reply without token ids") from error
