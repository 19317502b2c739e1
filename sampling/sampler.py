"""The sampler: two models coupled, prompts in, completions out."""

from __future__ import annotations

import sampling.environment  # noqa: F401  isort: skip  (before torch, transformers, vLLM)

import asyncio
import threading
from collections.abc import AsyncIterator, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

from transformers import PreTrainedTokenizerBase

from sampling.arguments import Backend, backend_of, dual_prompts, model_of
from sampling.config import EngineConfig, MixtureConfig, ModelConfig, SamplingConfig
from sampling.engine.request import Request, RequestContext
from sampling.engine.stats import SamplingStats
from sampling.errors import ConfigurationError, EmptyPromptError, EngineError, RowError, UnknownTokenError
from sampling.models.memory import check_max_tokens
from sampling.models.vocabulary import check_stop_ids
from sampling.prompts.dual_prompt import DualPrompt
from sampling.prompts.templates import encode_prompt
from sampling.results import DrawnToken, DualOutput, FailedRow
from sampling.served.config import HttpConfig

if TYPE_CHECKING:
    from sampling.engine.lockstep import LockstepEngine
    from sampling.served.engine import HttpEngine


class DualSampler:
    """Samples every token from the mixture of theta and the teacher.

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
    ) -> None:
        """Load both models into this process; or couple two servers, where both have a URL.

        `backend` follows from the URLs and may be said to be sure. A served model's folder or Hub id gives its
        tokenizer; left out, that is the name it is served by.
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

            self._engine, tokenizers, self.eos_ids = connect(*models, http or HttpConfig())
        else:
            from sampling.loading import load

            self._engine, tokenizers, self.eos_ids = load(*models, engine or EngineConfig(), self.mixture)
        self.theta_tokenizer, self.teacher_tokenizer = tokenizers
        self._num_tokens = tuple(max(tokenizer.get_vocab().values()) + 1 for tokenizer in tokenizers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give both models' memory back, or end every request."""
        self._is_closed = True
        self._engine.close()
        self._finisher.shutdown()

    @property
    def stats(self) -> SamplingStats:
        """Totals since loading."""
        return self._engine.stats

    def run(
        self,
        prompts: Iterable[DualPrompt],
        sampling: SamplingConfig,
        *,
        mixture: MixtureConfig | None = None,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[DualOutput | FailedRow]:
        """Sample `sampling.n` completions a prompt but those (id, sample_idx) in `skip`, as they finish.

        Prompts are pulled as room for them comes up. Raises ConfigurationError when `max_tokens` fits no prompt.
        """
        context = self._context(sampling, mixture)
        pairs = ((prompt, idx) for prompt in prompts for idx in range(sampling.n) if (prompt.id, idx) not in skip)
        more = True
        try:
            while more or context.inbox or self._holds(context):
                with self._lock:
                    more = more and self._feed(pairs, context)
                    self._engine.step()
                drained = not more and not self._holds(context)
                while context.inbox and (drained or _is_made(context.inbox[0])):
                    finished = context.inbox.popleft()
                    assert not isinstance(finished, DrawnToken)
                    yield finished.result() if isinstance(finished, Future) else finished
        finally:
            with self._lock:
                self._engine.abort(context)

    def generate(
        self,
        prompts: Sequence[DualPrompt] | Sequence[str],
        sampling: SamplingConfig | None = None,
        *,
        theta_prompts: Sequence[str] | None = None,
        mixture: MixtureConfig | None = None,
        progress: bool = True,
    ) -> list[DualOutput]:
        """Completions in the order of the prompts, `n` of each side by side.

        `prompts` are DualPrompts, or the teacher's texts beside `theta_prompts` (default: the same texts), whose
        rows are then named "0", "1", …. Raises the RowError of the first row that cannot be sampled.
        """
        from tqdm import tqdm

        sampling = sampling or SamplingConfig()
        rows = dual_prompts(prompts, theta_prompts)
        places = {row.id: place for place, row in enumerate(rows)}
        if len(places) < len(rows):
            raise ConfigurationError(f"{len(rows)} prompts have {len(places)} different ids; give each its own")
        outputs = []
        total = len(rows) * sampling.n
        with tqdm(total=total, unit="row", disable=not progress) as bar:
            for finished in self.run(rows, sampling, mixture=mixture):
                if isinstance(finished, FailedRow):
                    raise finished.error
                outputs.append(finished)
                bar.update()
        return sorted(outputs, key=lambda output: (places[output.id], output.sample_idx))

    async def stream(
        self,
        prompt: DualPrompt,
        sampling: SamplingConfig | None = None,
        *,
        mixture: MixtureConfig | None = None,
    ) -> AsyncIterator[DrawnToken]:
        """Tokens of one completion as they are drawn; streams side by side share their steps.

        Raises the row's RowError when it cannot be sampled. Leaving the loop early drops the row.
        """
        context = self._context((sampling or SamplingConfig()).model_copy(update={"n": 1}), mixture, streamed=True)

        def step() -> None:
            with self._lock:
                if not context.inbox:  # another stream's step may have filled it
                    self._engine.step()

        try:
            with self._lock:
                self._add(prompt, 0, context)
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
            with self._lock:
                self._engine.abort(context)

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

    def _feed(self, pairs: Iterator[tuple[DualPrompt, int]], context: RequestContext) -> bool:
        """Keep as many rows waiting as may run; False when there are no more."""
        while len(self._engine.scheduler.waiting) < self._engine.max_num_seqs:
            pair = next(pairs, None)
            if pair is None:
                return False
            self._add(*pair, context)
        return True

    def _add(self, prompt: DualPrompt, sample_idx: int, context: RequestContext) -> None:
        theta_ids = _token_ids(prompt.theta, self.theta_tokenizer)
        teacher_ids = _token_ids(prompt.teacher, self.teacher_tokenizer)
        row = Request(prompt.id, sample_idx, theta_ids, teacher_ids, context)
        try:
            if not theta_ids or not teacher_ids:
                empty = "theta" if not theta_ids else "teacher"
                raise EmptyPromptError(f"row {prompt.id}: the {empty} prompt holds no token; give it some text")
            for name, ids, number in zip(("theta", "teacher"), (theta_ids, teacher_ids), self._num_tokens, strict=True):
                if min(ids) < 0 or max(ids) >= number:
                    strange = next(token_id for token_id in ids if not 0 <= token_id < number)
                    raise UnknownTokenError(
                        f"row {prompt.id}: {name}'s prompt holds id {strange}; its tokenizer has 0 to {number - 1}"
                    )
            self._engine.scheduler.add(row)
        except RowError as error:
            self._engine.stats.num_failed += 1
            row.fail(error)

    def _holds(self, context: RequestContext) -> bool:
        scheduler = self._engine.scheduler
        return any(row.context is context for row in (*scheduler.waiting, *scheduler.running.values()))


def _is_made(finished: object) -> bool:
    return not isinstance(finished, Future) or finished.done()


def _token_ids(prompt: str | tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    return encode_prompt(tokenizer, prompt) if isinstance(prompt, str) else tuple(prompt)
