"""Defaults of the environment variables that vLLM reads when it is imported.

Import this module before vLLM, torch or transformers. Values that are set already are kept.
"""

import os

DEFAULTS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # keep each EngineCore in this process: lockstep drives both
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # V1's runner keeps the logits where lockstep can read them
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",  # loading prints about 60 lines a model
    "TOKENIZERS_PARALLELISM": "false",
}

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
