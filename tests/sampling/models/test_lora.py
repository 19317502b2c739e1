"""LoRA adapters and quantised models in real vLLM; adapters that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sampling import DualOutput, DualPrompt, DualSampler, EngineConfig, MixtureConfig, ModelConfig, SamplingConfig
from sampling.errors import ConfigurationError, ModelError
from sampling.models.lora import CONFIG, WEIGHTS, adapter_of
from sampling.served.serving import Servers, ServingConfig
from tests.tiny import make_adapter, make_int8, make_model

RANK, ALPHA = 4, 8.0
PROMPTS = ("hello world", "seven apples", "x")
HAS_AMX = torch.cpu._is_amx_tile_supported()  # there vLLM's int8 kernel takes no float32, which is exact enough here


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "model", seed=1)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return make_adapter(base.parent / "adapter", base, rank=RANK, alpha=ALPHA)


@pytest.fixture(scope="module")
def outputs(base: Path, adapter: Path) -> Iterator[list[DualOutput]]:
    """Sampled in lockstep from theta, the model with an adapter, and the teacher, the same model in int8 if it runs."""
    theta = ModelConfig(model=str(base), lora=str(adapter), max_model_len=64)
    teacher = ModelConfig(model=str(base), max_model_len=64)
    if not HAS_AMX:
        int8 = str(make_int8(base.parent / "int8", base))
        teacher = teacher.model_copy(update={"model": int8, "quantization": "compressed-tensors"})
    with DualSampler(teacher, theta, MixtureConfig.preset("exploratory"), EngineConfig(max_num_seqs=2)) as sampler:
        prompts = [DualPrompt(teacher=text, theta=text, id=text) for text in PROMPTS]
        yield sampler.generate(prompts, SamplingConfig(max_tokens=16), progress=False)


def logprobs(model: Any, output: DualOutput) -> Tensor:  # [T] float64
    """Of the drawn tokens, by transformers."""
    from tests.tiny import byte_tokenizer

    prompt = byte_tokenizer().encode(output.id)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *output.token_ids]])).logits[0, len(prompt) - 1 : -1, :257]
    return logits.double().log_softmax(-1).gather(-1, torch.tensor(output.token_ids)[:, None]).squeeze(-1)


def loaded(base: Path, changed: Callable[[str, Tensor], Tensor] = lambda name, weight: weight) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    weights = {name: changed(name, weight) for name, weight in load_file(base / "model.safetensors").items()}
    model.load_state_dict(weights)
    return model


def error(model: Any, outputs: list[DualOutput], column: str) -> float:
    """The largest distance of the recorded log-probabilities from those of transformers, nats."""
    return max(
        (logprobs(model, output) - torch.from_numpy(getattr(output.diagnostics, column))).abs().max().item()
        for output in outputs
    )


@pytest.mark.slow
def test_an_adapter_is_the_model_with_merged_weights(base: Path, adapter: Path, outputs: list[DualOutput]) -> None:
    """W + (alpha/r)·B·A; without the adapter, the log-probabilities are nats away."""
    factors = load_file(adapter / WEIGHTS)

    def merged(name: str, weight: Tensor) -> Tensor:
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{layer}.lora_A.weight" not in factors:
            return weight
        return weight + ALPHA / RANK * factors[f"{layer}.lora_B.weight"] @ factors[f"{layer}.lora_A.weight"]

    assert error(loaded(base, merged), outputs, "logprob_theta") < 2e-5
    assert error(loaded(base), outputs, "logprob_theta") > 1.0


@pytest.mark.slow
@pytest.mark.skipif(HAS_AMX, reason="on a CPU with AMX vLLM computes int8 with 16-bit activations alone")
def test_a_quantised_model_is_the_dequantised_one(base: Path, outputs: list[DualOutput]) -> None:
    """int8 weights with a scale per row, int8 activations with a scale per token, both in float32."""
    model = loaded(base)
    for module in model.model.modules():
        if isinstance(module, torch.nn.Linear):
            with torch.no_grad():
                module.weight.copy_(_rounded(module.weight))
            module.register_forward_pre_hook(lambda _, inputs: (_rounded(inputs[0]),))
    assert all(torch.from_numpy(output.diagnostics.logprob_teacher).isfinite().all() for output in outputs)
    assert error(model, outputs, "logprob_teacher") < 2e-3  # 2e-6 where no rounding falls the other way
    assert error(loaded(base), outputs, "logprob_teacher") > 0.02  # unlike the model that was not quantised


def _rounded(values: Tensor) -> Tensor:
    scale = values.abs().amax(dim=-1, keepdim=True) / 127
    return (values / scale).round() * scale


@pytest.mark.slow
def test_an_unsupported_quantisation_is_vllms_error(base: Path) -> None:
    """fp8 beside the float32 of a CPU."""
    from sampling.engine.vllm_engine import VllmEngine
    from sampling.models.vllm_options import device_type

    if device_type() != "cpu":
        pytest.skip("a GPU has fp8")
    with pytest.raises(ModelError, match=r"float32 is not supported for quantization method fp8"):
        VllmEngine(ModelConfig(model=str(base), quantization="fp8"), EngineConfig(max_num_seqs=2), 64, 16 << 20)


@pytest.mark.parametrize(("rank", "max_rank"), [(1, 8), (8, 8), (9, 16), (100, 128)])
def test_max_lora_rank_holds_the_rank(base: Path, tmp_path: Path, rank: int, max_rank: int) -> None:
    folder = make_adapter(tmp_path / "adapter", base, rank=rank)
    found = adapter_of(ModelConfig(model=str(base), lora=str(folder)))
    assert found is not None
    assert (found.rank, found.max_rank) == (rank, max_rank)


def test_the_options_name_an_adapter_only_where_there_is_one(base: Path, adapter: Path) -> None:
    from sampling.models.vllm_options import llm_options, lora_request

    plain, adapted = ModelConfig(model=str(base)), ModelConfig(model=str(base), lora=str(adapter))
    before, after = (llm_options(model, EngineConfig(), 64, 1 << 20) for model in (plain, adapted))
    assert after == before | {"enable_lora": True, "max_loras": 2, "max_lora_rank": 8}
    assert lora_request(plain) is None
    request = lora_request(adapted)
    assert request is not None
    assert request.lora_path == str(adapter)


def _config(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **changed}))

    return change


def _tensor(name: str, *shape: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        save_file({**load_file(folder / WEIGHTS), name: torch.zeros(shape)}, folder / WEIGHTS)

    return change


def _without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        del tensors[name]
        save_file(tensors, folder / WEIGHTS)

    return change


def _renamed(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        save_file({name.replace(old, new): tensor for name, tensor in tensors.items()}, folder / WEIGHTS)

    return change


LAYER = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "holds no adapter_config.json"),
        (lambda folder: (folder / WEIGHTS).unlink(), "holds no adapter_model.safetensors"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "holds a list, no object"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"no weights"), "cannot be read"),
        (lambda folder: save_file({}, folder / WEIGHTS), "holds no tensor"),
        (_config(peft_type="IA3"), "is a IA3 adapter"),
        (_config(r=1024), "r 1024"),
        (_config(r=8), "has rank 4, adapter_config.json says 8"),
        (_config(modules_to_save=["lm_head"]), r"more than a plain LoRA \(modules_to_save: \['lm_head'\]\)"),
        (_config(use_dora=True), "use_dora: True"),
        (_config(alpha_pattern={"q_proj": 1}), "alpha_pattern"),
        (_config(init_lora_weights="pissa"), "init_lora_weights: pissa"),
        (_tensor("base_model.model.lm_head.lora_A.weight", 4, 64), "trains base_model.model.lm_head"),
        (_tensor("base_model.model.model.embed_tokens.weight", 264, 64), "trains base_model.model.model.embed_tokens"),
        (_tensor(LAYER.format(2), 4, 64), r"has no layer model\.layers\.2\.self_attn\.q_proj"),
        (_renamed("model.layers", "layers"), r"has no layer layers\.0\..*: an adapter of another model, or one saved"),
        (_renamed("model.layers", "model.language_model.layers"), "has no layer model.language_model.layers.0"),
        (_renamed("mlp", "self_attn"), r"has no layer model\.layers\.0\.self_attn\.(gate|up|down)_proj"),
        (_tensor(LAYER.format(0), 4, 128), r"is \[4, 128\], .*'s layer \[64, 64\]"),
        (_without(LAYER.format(0)), "holds .*q_proj.lora_B.weight without .*q_proj.lora_A.weight"),
    ],
)
def test_an_adapter_that_vllm_would_not_apply_as_a_whole_is_refused(
    base: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    folder = make_adapter(tmp_path / "adapter", base, rank=RANK)
    change(folder)
    with pytest.raises(ModelError, match=message):
        adapter_of(ModelConfig(model=str(base), lora=str(folder)))


def test_an_adapter_on_a_quantised_model_is_refused_on_a_cpu(base: Path, adapter: Path, tmp_path: Path) -> None:
    from sampling.models.vllm_options import device_type, llm_options

    if device_type() != "cpu":
        pytest.skip("a GPU's quantised layers take adapters")
    model = ModelConfig(model=str(make_int8(tmp_path / "int8", base)), lora=str(adapter))
    with pytest.raises(ModelError, match=r"on the quantised .*int8: vLLM's layers"):
        llm_options(model, EngineConfig(), 64, 1 << 20)


def test_a_missing_adapter_is_an_error(base: Path) -> None:
    with pytest.raises(ModelError, match="no/such-adapter"):
        adapter_of(ModelConfig(model=str(base), lora="no/such-adapter"))


def test_a_served_model_takes_no_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    theta = ModelConfig(model=str(base), lora=str(adapter))
    with pytest.raises(ConfigurationError, match="theta_url beside lora"):
        DualSampler(str(base), theta, theta_url="http://localhost:1", teacher_url="http://localhost:2")
    ports: dict[str, Any] = {"theta_port": 19471, "teacher_port": 19472}
    with pytest.raises(ConfigurationError, match="these servers serve no adapter"):
        Servers(ServingConfig(theta=theta, teacher=ModelConfig(model=str(base)), logs=tmp_path, **ports))
    with pytest.raises(ValidationError, match=r"a server applies its own adapters; start it with --enable-lora"):
        ModelConfig(model="a", lora="b", url="http://localhost:1")
