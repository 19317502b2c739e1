"""Errors cross from one process to another under their own classes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sampling import ModelConfig
from sampling.errors import CapacityError, DualSamplingError, EngineDiedError, EngineError
from sampling.processes.errors import as_message, first_line, from_message


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (CapacityError("too large"), CapacityError, "too large"),
        (EngineDiedError("killed"), EngineDiedError, "killed"),
        (EngineError("broken"), EngineError, "broken (see a.log)"),
        (ValueError("first\nsecond"), EngineError, "ValueError: first (see a.log)"),
        (KeyboardInterrupt(), EngineError, "KeyboardInterrupt: KeyboardInterrupt (see a.log)"),
    ],
)
def test_an_error_arrives_under_its_own_class(error: BaseException, kind: type[DualSamplingError], text: str) -> None:
    arrived = from_message(as_message(error), " (see a.log)")
    assert type(arrived) is kind
    assert str(arrived) == text


def test_the_line_of_a_checked_configuration_says_what_is_wrong() -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig(model="a", max_model_len=1)
    assert first_line(caught.value) == "Input should be greater than or equal to 8"
    assert first_line(ValueError("\n")) == "ValueError"
    assert first_line(ValueError("one of:\n (1) this\n (2) that")) == "one of: (1) this (2) that"
