"""A key comes from the environment, whole or not at all, and is never shown."""

from __future__ import annotations

import pytest

from sampling.errors import ConfigurationError
from sampling.served.config import api_key


@pytest.mark.parametrize(("given", "key"), [("sk-1\n", "sk-1"), ("", None), (" ", None), ("sk-1", "sk-1")])
def test_what_surrounds_a_key_is_none_of_it(given: str, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUAL_SAMPLING_THETA_API_KEY", given)
    assert api_key("theta") == key


@pytest.mark.parametrize("given", ["sk secret", "sk\nsecret", "sk-sécret"])
def test_what_no_header_takes_is_refused_without_showing_it(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUAL_SAMPLING_TEACHER_API_KEY", given)
    with pytest.raises(ConfigurationError, match="DUAL_SAMPLING_TEACHER_API_KEY") as caught:
        api_key("teacher")
    assert "cret" not in str(caught.value)
