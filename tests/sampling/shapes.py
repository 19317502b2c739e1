"""The config.json of real models, for models with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sampling.config import DummyModel

# Qwen3-14B's shapes: 14.8 billion weights, 40 layers of 8 key-value heads, 128 wide.
LARGE = {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 5120, "intermediate_size": 17408,
    "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 40960, "dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
SMALL = LARGE | {  # Qwen3-4B's
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "tie_word_embeddings": True,
}  # fmt: skip


def dummy(folder: Path, config: dict[str, Any], **context: Any) -> DummyModel:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return DummyModel(model=str(folder), **context)
