"""The public sampler, which couples two models and turns prompts into completions."""

from __future__ import annotations

import sampling.environment  # noqa: F401  isort: skip  (before torch, transformers, vLLM)

import asyncio
import threading
from collections.abc import AsyncIterator, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Literal, Self, overload

from transformers import PreTrainedTokenizerBase

from sampling.arguments import Backend, backend_of, dual_prompts, model_of
from sampling.bounds import Bounds
from sampling.config import EngineConfig, MixtureConfig, ModelConfig, SamplingConfig
from sampling.engine.request import Request, RequestContext
from sampling.engine.stats import SamplingStats
from sampling.errors import ConfigurationError, EmptyPromptError, EngineError, RowError, UnknownTokenError
from sampling.models.memory import check_max_tokens
from sampling.models.vocabulary import check_stop_ids
from sampling.prompts.dual_prompt import DualPrompt
from sampling.prompts.encoding import encode_prompt
from sampling.results import DrawnToken, DualOutput, FailedRow
from sampling.served.config import HttpConfig

if TYPE_CHECKING:
    from sampling.engine.lockstep import LockstepEngine
    from sampling.served.engine import HttpEngine


class DualSampler:
    """Draws every token from the mixture of theta and the teacher.

    Loading raises ModelError, VocabularyMismatchError, CapacityError (all ConfigurationError), or
    UnsupportedVllmError; coupling servers raises ServerRefusedError or ServerError. Two samplers may live in one
    process.
    """

    def __init__(
        self,
        teacher: str | ModelConfig | None = None,
        theta: str | ModelConfig | None = None,
        mixture: MixtureConfig | None = None,
        engine: EngineConfig | None = None,
        *,
        backend: Backend | None = None,
        teacher_url: str | Sequence[str] | None = None,
        theta_url: str | Sequence[str] | None = None,
        http: HttpConfig | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """Load both models; or couple two servers, where both have a URL.

        `backend` follows from the URLs; given, it is checked. A served model's folder or Hub id gives its tokenizer;
        the default is its served name, and `bounds` limit its replies.
        """
        self.mixture = mixture or MixtureConfig.preset("balanced")
        models = model_of("theta", theta, theta_url), model_of("teacher", teacher, teacher_url)
        found = backend_of(models, backend)
        self._is_closed = False
        self._lock = threading.Lock()
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finisher")  # its thread starts with the first row
        self._engine: LockstepEngine | HttpEngine
        if found == "http":
            from sampling.served.connect import connect

            self._engine, tokenizers, self.eos_ids = connect(*models, http or HttpConfig(), bounds)
        else:
            from sampling.loading import load

            self._engine, tokenizers, self.eos_ids = load(*models, engine or EngineConfig(), self.mixture)
        self.theta_tokenizer, self.teacher_tokenizer = tokenizers
        self._num_tokens = tuple(max(tokenizer.get_vocab().values()) + 1 for tokenizer in tokenizers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free both models' memory, or end every request."""
        self._is_closed = True
        self._engine.close()
        self._finisher.shutdown()

    @property
    def stats(self) -> SamplingStats:
        """Return the totals since loading."""
        return self._engine.stats

    def run(
        self,
        prompts: Iterable[DualPrompt],
        sampling: SamplingConfig,
        *,
        mixture: MixtureConfig | None = None,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[DualOutput | FailedRow]:
        """Yield `sampling.n` completions per prompt as they finish, except the (id, sample_idx) in `skip`.

        Prompts are pulled as capacity frees up. Raises ConfigurationError when `max_tokens` fits no prompt.
        """
        context = self._context(sampling, mixture)
        requests = (
            self._request(prompt, idx, context)
            for prompt in prompts
            for idx in range(sampling.n)
            if (prompt.id, idx) not in skip
        )
        has_more = True
        try:
            while has_more or context.inbox or self._has_rows(context):
                # Text is tokenised before the lock is taken: concurrent calls step on.
                num_wanted = max(0, self._engine.max_num_seqs - len(self._engine.scheduler.waiting)) * has_more
                batch = list(islice(requests, num_wanted))
                has_more = has_more and len(batch) == num_wanted
                with self._lock:
                    for request in batch:
                        self._add(request)
                    self._engine.step()
                drained = not has_more and not self._has_rows(context)
                while context.inbox and (drained or _is_done(context.inbox[0])):
                    finished = context.inbox.popleft()
                    assert not isinstance(finished, DrawnToken)
                    yield finished.result() if isinstance(finished, Future) else finished
        finally:
            with self._lock:
                self._engine.abort(context)

    @overload
    def generate(
        self,
        prompts: Sequence[DualPrompt] | Sequence[str],
        sampling: SamplingConfig | None = None,
        *,
        theta_prompts: Sequence[str] | None = None,
        mixture: MixtureConfig | None = None,
        progress: bool = True,
        on_error: Literal["raise"] = "raise",
    ) -> list[DualOutput]: ...

    @overload
    def generate(
        self,
        prompts: Sequence[DualPrompt] | Sequence[str],
        sampling: SamplingConfig | None = None,
        *,
        theta_prompts: Sequence[str] | None = None,
        mixture: MixtureConfig | None = None,
        progress: bool = True,
        on_error: Literal["return"],
    ) -> list[DualOutput | FailedRow]: ...

    def generate(
        self,
        prompts: Sequence[DualPrompt] | Sequence[str],
        sampling: SamplingConfig | None = None,
        *,
        theta_prompts: Sequence[str] | None = None,
        mixture: MixtureConfig | None = None,
        progress: bool = True,
        on_error: Literal["raise", "return"] = "raise",
    ) -> Sequence[DualOutput | FailedRow]:
        """Return the completions in the order of the prompts, the `n` of each prompt consecutive.

        `prompts` are DualPrompts, or the teacher's texts with `theta_prompts` (default: the same texts), whose ids are
        then "0", "1", …. A row that cannot be sampled raises its RowError, and the others are dropped; `on_error`
        "return" puts a FailedRow in its place instead.
        """
        from tqdm import tqdm

        sampling = sampling or SamplingConfig()
        rows = dual_prompts(prompts, theta_prompts)
        indices = {row.id: index for index, row in enumerate(rows)}
        if len(indices) < len(rows):
            raise ConfigurationError(f"{len(rows)} prompts have {len(indices)} different ids; give each its own")
        outputs: list[DualOutput | FailedRow] = []
        with tqdm(total=len(rows) * sampling.n, unit="row", disable=not progress) as bar:
            for finished in self.run(rows, sampling, mixture=mixture):
                if isinstance(finished, FailedRow) and on_error == "raise":
                    raise finished.error
                outputs.append(finished)
                bar.update()
        return sorted(outputs, key=lambda output: (indices[output.id], output.sample_idx))

    async def stream(
        self,
        prompt: DualPrompt,
        sampling: SamplingConfig | None = None,
        *,
        mixture: MixtureConfig | None = None,
    ) -> AsyncIterator[DrawnToken]:
        """Yield the tokens of one completion as they are drawn; concurrent streams share steps.

        Raises the row's RowError when it cannot be sampled. Leaving the loop early drops the row.
        """
        context = self._context((sampling or SamplingConfig()).model_copy(update={"n": 1}), mixture, streamed=True)

        request = self._request(prompt, 0, context)

        # Each takes the lock, which another stream's step may hold for long: never on the caller's event loop.
        def add() -> None:
            with self._lock:
                self._add(request)

        def step() -> None:
            with self._lock:
                if not context.inbox:  # a concurrent stream's step may have filled it
                    self._engine.step()

        def abort() -> None:
            with self._lock:
                self._engine.abort(context)

        try:
            await asyncio.to_thread(add)
            while True:
                while context.inbox:
                    item = context.inbox.popleft()
                    if isinstance(item, FailedRow):
                        raise item.error
                    assert isinstance(item, DrawnToken)
                    yield item
                    if item.finish_reason is not None:
                        return
                await asyncio.to_thread(step)
        finally:
            await asyncio.to_thread(abort)

    def _context(
        self, sampling: SamplingConfig, mixture: MixtureConfig | None, streamed: bool = False
    ) -> RequestContext:
        if self._is_closed:
            raise EngineError("this sampler is closed; make a new one")
        max_model_len = min(self._engine.theta.max_model_len, self._engine.teacher.max_model_len)
        check_max_tokens(sampling.max_tokens, max_model_len)
        check_stop_ids(sampling.stop_token_ids, self._engine.num_ids)
        return RequestContext(
            mixture=mixture or self.mixture,
            sampling=sampling,
            eos_ids=self.eos_ids,
            tokenizer=self.teacher_tokenizer,
            streamed=streamed,
            finisher=self._finisher,
        )

    def _request(self, prompt: DualPrompt, sample_idx: int, context: RequestContext) -> Request:
        theta_ids = _token_ids(prompt.theta, self.theta_tokenizer)
        teacher_ids = _token_ids(prompt.teacher, self.teacher_tokenizer)
        return Request(prompt.id, sample_idx, theta_ids, teacher_ids, context)

    def _add(self, row: Request) -> None:
        prompts = (("theta", row.theta_prompt), ("teacher", row.teacher_prompt))
        try:
            for (name, ids), number in zip(prompts, self._num_tokens, strict=True):
                if not ids:
                    raise EmptyPromptError(f"row {row.id}: the {name} prompt holds no token; give it some text")
                if unknown := [token_id for token_id in ids if not 0 <= token_id < number]:
                    raise UnknownTokenError(
                        f"row {row.id}: {name}'s prompt holds id {unknown[0]}; its tokenizer has 0 to {number - 1}"
                    )
            self._engine.scheduler.add(row)
        except RowError as error:
            self._engine.stats.num_failed += 1
            row.fail(error)

    def _has_rows(self, context: RequestContext) -> bool:
        scheduler = self._engine.scheduler
        return any(row.context is context for row in (*scheduler.waiting, *scheduler.running.values()))


def _is_done(finished: object) -> bool:
    return not isinstance(finished, Future) or finished.done()


def _token_ids(prompt: str | tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    return encode_prompt(tokenizer, prompt) if isinstance(prompt, str) else tuple(prompt)
