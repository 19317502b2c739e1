"""Tests of the sampler's arguments."""

from __future__ import annotations

from typing import Any

import pytest

from sampling import DualPrompt, ModelConfig
from sampling.arguments import backend_of, dual_prompts, model_of
from sampling.errors import ConfigurationError

URL = "http://127.0.0.1:9000/v1"
LOADED, SERVED = ModelConfig(model="a"), ModelConfig(model="a", url=URL)


def test_a_model_by_name_by_configuration_or_by_url() -> None:
    assert model_of("theta", "a", None) == LOADED
    assert model_of("theta", LOADED, None) is LOADED
    assert model_of("theta", "a", URL).urls == (URL,)
    assert model_of("theta", None, [URL, URL]).urls == (URL, URL)


@pytest.mark.parametrize(
    ("model", "url", "message"),
    [
        (None, None, "no theta: give a folder, a Hub id, or theta_url"),
        (ModelConfig(model="a", lora="b"), URL, "theta_url beside lora 'b'"),
        (ModelConfig(model="a", devices=(1,)), URL, "theta_url beside devices or tensor_parallel_size"),
        (ModelConfig(model="a", tensor_parallel_size=2), URL, "theta_url beside devices or tensor_parallel_size"),
    ],
)
def test_an_invalid_model(model: Any, url: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        model_of("theta", model, url)


def test_the_backend_follows_from_the_urls() -> None:
    assert backend_of((LOADED, LOADED), None) == backend_of((LOADED, LOADED), "lockstep") == "lockstep"
    assert backend_of((SERVED, SERVED), None) == backend_of((SERVED, SERVED), "http") == "http"
    for models, wanted in (((LOADED, SERVED), None), ((SERVED, SERVED), "lockstep"), ((LOADED, LOADED), "http")):
        with pytest.raises(ConfigurationError, match=r"give both a URL \(http\), or none"):
            backend_of(models, wanted)  # type: ignore[arg-type]


def test_texts_become_pairs_with_ids() -> None:
    assert dual_prompts(["a", "b"], None) == [DualPrompt("a", "a", id="0"), DualPrompt("b", "b", id="1")]
    assert dual_prompts(["a", "b"], ["c", "d"]) == [DualPrompt("a", "c", id="0"), DualPrompt("b", "d", id="1")]
    pair = DualPrompt("a", "c", id="x")
    assert dual_prompts([pair], None) == [pair]
    with pytest.raises(ConfigurationError, match="a DualPrompt holds its own"):
        dual_prompts([pair], ["c"])
    with pytest.raises(ConfigurationError, match="2 prompts, 1 theta_prompts"):
        dual_prompts(["a", "b"], ["c"])
    for alone in ("ab", pair):
        with pytest.raises(ConfigurationError, match=r"prompts is one prompt, .* give \[prompt\]"):
            dual_prompts(alone, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="row x: no theta prompt"):
        dual_prompts([DualPrompt("a", None, id="x")], None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"row 1: the teacher prompt holds U\+D800 at 2, half of a character"):
        dual_prompts(["a", "bc\ud800"], ["a", "b"])
    with pytest.raises(ConfigurationError, match="theta_prompts is one prompt"):
        dual_prompts(["ab", "cd"], "cd")
