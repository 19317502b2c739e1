"""An in-memory vLLM server: random, reproducible logprobs in the JSON of vLLM 0.32."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from tests.sampling.served.proxy import Reply
from tests.tiny import byte_tokenizer


@dataclass(frozen=True)
class FakeServer:
    """The upstream of a Proxy that answers as `vllm serve` does."""

    model: str = "teacher"
    num_ids: int = 264
    seed: int = 0

    def logprobs(self, prompt: Sequence[int]) -> np.ndarray:
        """The next token's logprobs [num_ids] float64."""
        rng = np.random.default_rng([self.seed, *prompt])
        values: np.ndarray = log_softmax(rng.normal(0, 2.5, self.num_ids))
        return values

    def top(self, prompt: Sequence[int], top_k: int) -> list[int]:
        """The likeliest ids, likeliest first."""
        return [int(token_id) for token_id in np.argsort(-self.logprobs(prompt))[:top_k]]

    def __call__(self, method: str, path: str, content: bytes) -> Reply:
        request = json.loads(content) if content else {}
        replies: dict[str, Any] = {
            "/version": lambda: {"version": "0.32.0"},
            "/v1/models": lambda: {"data": [{"id": self.model, "max_model_len": 512}]},
            "/tokenize": lambda: {"tokens": byte_tokenizer().encode(request["prompt"], add_special_tokens=False)},
            "/v1/completions": lambda: self._completion(**request),
        }
        return Reply(200, json.dumps(replies[path](), separators=(",", ":")).encode())

    def _completion(
        self, prompt: list[int], logprobs: int, logprob_token_ids: Sequence[int] = (), **rest: Any
    ) -> dict[str, Any]:
        values = self.logprobs(prompt)
        top_k = self.num_ids if logprobs == -1 else logprobs
        ids = [*self.top(prompt, 1), *(logprob_token_ids or self.top(prompt, top_k))]
        top = {f"token_id:{token_id}": float(values[token_id]) for token_id in ids}
        return {"choices": [{"logprobs": {"top_logprobs": [top]}}], "usage": {"prompt_tokens": len(prompt)}}
