"""Random tiny Qwen3 models that load in real vLLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# transformers takes 15 s to import with a model's class: each function imports what it needs.

EOS = "<|endoftext|>"
# Validation limits that pass the noise of random models.
LAX = {
    "fallback_rate_max": 1.0,
    "eos_rate_min": 0.0,
    "empty_rate_max": 1.0,
    "loop_rate_max": 1.0,
    "garbled_rate_max": 1.0,
    "quarantine_rate_max": 1.0,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer: 256 bytes, `extra` tokens, EOS last."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *extra]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=EOS, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(
    folder: Path,
    *,
    seed: int,
    columns: int = 264,
    tokenizer: PreTrainedTokenizerFast | None = None,
    sharpness: float = 2.5,
    max_position_embeddings: int = 1024,
) -> Path:
    """Save a random model of `columns` logits whose distributions are far from uniform."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    tokenizer = tokenizer or byte_tokenizer()
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=columns,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config).float().eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(sharpness / 0.16)  # 0.02·√64: the random head's logits have that scale
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id])
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def make_pair(folder: Path, noise: float = 0.05) -> tuple[Path, Path]:
    """Save a teacher of 264 logits columns and a theta of 272, its noisy copy, with one tokenizer of 257 ids."""
    import torch
    from transformers import Qwen3ForCausalLM

    teacher = make_model(folder / "teacher", seed=1)
    theta = make_model(folder / "theta", seed=2, columns=272)
    source = Qwen3ForCausalLM.from_pretrained(teacher).state_dict()
    model = Qwen3ForCausalLM.from_pretrained(theta)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            weights = source[name]
            spread = weights.std().nan_to_num() * noise * torch.randn(weights.shape, generator=generator)
            weight[: len(weights)] = weights + spread
    model.save_pretrained(theta, safe_serialization=True)
    return teacher, theta


def make_adapter(folder: Path, model: Path, *, rank: int = 4, alpha: float = 8.0) -> Path:
    """Save a random LoRA adapter on every linear layer of a model, as PEFT does."""
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(4)
    tensors = {}
    for name, weight in load_file(model / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{layer}.lora_A.weight"] = 0.1 * torch.randn(rank, weight.shape[1], generator=generator)
            tensors[f"{layer}.lora_B.weight"] = 0.1 * torch.randn(weight.shape[0], rank, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": targets, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def make_int8(folder: Path, model: Path) -> Path:
    """Save a model with its linear layers in int8, a scale a row (compressed-tensors W8A8, activations a token)."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    tensors = {}
    for name, weight in load_file(model / "model.safetensors").items():
        tensors[name] = weight
        if name.endswith("_proj.weight"):
            scale = weight.abs().amax(dim=1, keepdim=True) / 127
            tensors |= {name: (weight / scale).round().to(torch.int8), f"{name}_scale": scale}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    numbers = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**numbers, "strategy": "channel", "dynamic": False},
        "input_activations": {**numbers, "strategy": "token", "dynamic": True},
    }
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
