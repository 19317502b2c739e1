"""A sampler without models, in the engine's own process: completions follow from a row's id and sample index alone.

Tests of the pipeline set `tasks.worker.engine_process.ENGINE` to "tests.stand_in:serve"; everything but the sampler is
the product. The environment says how fast it is, and what is wrong with it.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Container, Iterable, Iterator
from multiprocessing.connection import Connection

from sampling.config import SamplingConfig
from sampling.engine.stats import SamplingStats
from sampling.prompts.dual_prompt import DualPrompt
from sampling.results import DualOutput
from tests.tasks.outputs import make_output

ENGINE = "tests.stand_in:serve"
ROW_S = "STAND_IN_ROW_S"  # seconds a completion takes; default 0
LONGEST = 60  # tokens of a completion


def serve(connection: Connection) -> None:
    """Serve a run as tasks.worker.engine_child does, with the sampler below."""
    import sampling
    from tasks.worker import engine_child

    sampling.DualSampler = StandIn  # type: ignore[misc, assignment]
    engine_child.serve(connection)


class StandIn:
    """Samples one completion after the other."""

    def __init__(self, **_: object) -> None:
        self.stats = SamplingStats()

    def run(
        self, prompts: Iterable[DualPrompt], sampling: SamplingConfig, *, skip: Container[tuple[str, int]] = ()
    ) -> Iterator[DualOutput]:
        """Completions of 1 to 60 tokens; those that `max_tokens` cuts are `length`."""
        row_s = float(os.environ.get(ROW_S, "0"))
        for prompt in prompts:
            for sample_idx in range(sampling.n):
                if (prompt.id, sample_idx) in skip:
                    continue
                begin = time.monotonic()
                time.sleep(row_s)
                output = completion(prompt.id, sample_idx, sampling.max_tokens)
                self.stats.num_steps += 1
                self.stats.num_requests += 1
                self.stats.num_tokens += len(output.token_ids)
                self.stats.num_forced += 1
                self.stats.max_kl_error = 1e-8
                self.stats.total_s += max(1e-6, time.monotonic() - begin)
                yield output


def completion(row_id: str, sample_idx: int, max_tokens: int) -> DualOutput:
    """What the stand-in gives for a row, whatever happened before."""
    num_tokens = 1 + zlib.crc32(f"{row_id} {sample_idx}".encode()) % LONGEST
    if num_tokens > max_tokens:
        return make_output(row_id, sample_idx, max_tokens, "length")
    return make_output(row_id, sample_idx, num_tokens)
