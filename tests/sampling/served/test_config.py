"""HttpConfig, and the API keys of the environment."""

from __future__ import annotations

import pytest

from sampling.errors import ConfigurationError
from sampling.served.config import HttpConfig, api_key


@pytest.mark.parametrize(("given", "key"), [("sk-1\n", "sk-1"), ("", None), (" ", None), ("sk-1", "sk-1")])
def test_white_space_around_a_key_is_stripped(given: str, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUAL_SAMPLING_THETA_API_KEY", given)
    assert api_key("theta") == key


@pytest.mark.parametrize("given", ["sk secret", "sk\nsecret", "sk-sécret"])
def test_an_invalid_key_is_refused_without_showing_it(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUAL_SAMPLING_TEACHER_API_KEY", given)
    with pytest.raises(ConfigurationError, match="DUAL_SAMPLING_TEACHER_API_KEY") as caught:
        api_key("teacher")
    assert "cret" not in str(caught.value)


def test_a_timeout_is_positive() -> None:
    with pytest.raises(ValueError, match="request_timeout_s"):
        HttpConfig(request_timeout_s=0)
