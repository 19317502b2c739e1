"""Tests of the configuration."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from sampling import MixtureConfig, ModelConfig, SamplingConfig


def test_presets() -> None:
    conservative = MixtureConfig.preset("conservative")
    balanced = MixtureConfig.preset("balanced")
    exploratory = MixtureConfig.preset("exploratory")
    assert balanced == MixtureConfig()
    names = ("target_top_p", "stability_threshold_js", "stability_threshold_overlap")
    assert [getattr(conservative, name) for name in names] == [0.90, 0.4, 0.15]
    assert [getattr(balanced, name) for name in names] == [0.95, 0.5, 0.10]
    assert not any((exploratory.force_first_token, exploratory.trust_region, exploratory.stability_check))
    assert MixtureConfig.preset("conservative", target_top_p=0.5).target_top_p == 0.5


def test_a_preset_survives_a_round_trip() -> None:
    config = MixtureConfig.preset("exploratory", stability_check=True)
    assert MixtureConfig.model_validate(config.model_dump()) == config
    assert MixtureConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (MixtureConfig, {"preset": "bold"}),
        (MixtureConfig, {"alpha": 1.1}),
        (MixtureConfig, {"stability_threshold_js": 0.8}),
        (MixtureConfig, {"target_top_p": 0}),
        (MixtureConfig, {"alpha_metod": "fixed"}),
        (SamplingConfig, {"n": 0}),
        (SamplingConfig, {"temperature": -1}),
        (SamplingConfig, {"stop": ("",)}),
        (SamplingConfig, {"seed": -1}),
        (ModelConfig, {}),
    ],
)
def test_wrong_values_are_refused(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind(**values)


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SamplingConfig().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@a:9000",
        "HTTPS://secret@a:9000",
        "http://a:9000/?api_key=secret",
        "http://a:9000/#secret",
        "http://me%3Asecret%40a:9000",
        "http://me:secret%2540a",
        "http:/me:secret@a",
        "me:secret@a:9000",
        "secret@a",
        "\\\\secret@a",
        ("http://a", "http://:secret@b"),
        ["http://a", "http://b/?k=secret"],
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_quoted(url: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig(model="a", url=url)
    assert "secret" not in str(caught.value)
    (error,) = caught.value.errors(include_input=False)
    assert "url holds a user name, a password or a key" in error["msg"]
    as_json = list(url) if isinstance(url, tuple) else url
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"model": "a", "url": as_json}, ModelConfig.model_json_schema())
    assert "secret" not in error["msg"]


@pytest.mark.parametrize("kind", ["model", "lora"])
@pytest.mark.parametrize(
    "address",
    [
        "https://secret@huggingface.co/org/name",
        "HTTPS:/u:secret@host/x",
        "s3://key:secret@bucket/x",
        "s3://key:secret%40bucket/x",
        "https://host/x?X-Amz-Signature=secret",
        " git+https://u:secret@host/x",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_quoted(kind: str, address: str) -> None:
    for values in ({"model": "a", kind: address}, {kind: address, "model": address}):
        with pytest.raises(ValidationError) as caught:
            ModelConfig.model_validate(values)
        assert "secret" not in str(caught.value)
        assert "the address holds a user name, a password or a key" in str(caught.value)
    with pytest.raises(jsonschema.ValidationError, match="does not match"):  # Prefect's server has the schema alone
        jsonschema.validate({"model": "a", kind: address}, ModelConfig.model_json_schema())


@pytest.mark.parametrize(
    "name", ["org/name", "/data/a@b?c#d", "./logs:2024-?/x@y", "C:\\x@y", "~me/x", "s3://bucket/x"]
)
def test_other_names_are_taken(name: str) -> None:
    assert ModelConfig(model=name).model == name
    jsonschema.validate({"model": name, "url": ["http://a:9000"]}, ModelConfig.model_json_schema())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (SamplingConfig, {"n": "2"}),
        (SamplingConfig, {"n": 2.0}),
        (SamplingConfig, {"seed": True}),
        (SamplingConfig, {"temperature": "1"}),
        (SamplingConfig, {"stop": [1]}),
        (SamplingConfig, {"stop": "word"}),
        (MixtureConfig, {"trust_region": "yes"}),
        (MixtureConfig, {"trust_region": 1}),
        (ModelConfig, {"model": "a", "trust_remote_code": "off"}),
    ],
)
def test_a_value_of_another_type_is_refused_wherever_it_comes_from(kind: Any, values: dict[str, Any]) -> None:
    """Python, a deployment's form and YAML judge alike."""
    with pytest.raises(ValidationError):
        kind.model_validate(values)
    assert SamplingConfig.model_validate({"stop": ["a"], "temperature": 1}).stop == ("a",)  # as JSON has it
