"""The GPU tests and benchmarks, in parts that each have a time limit.

    python -m tests.gpu.measure tests kernel --output OUT     # the most important first
    python -m tests.gpu.measure small --output OUT            # dual-sampling bench, Qwen2.5 3B + 1.5B shapes
    python -m tests.gpu.measure large --output OUT            # Qwen3 14B + 4B shapes
    python -m tests.gpu.measure small --tiny --rows 2 --output OUT     # on a CPU: the script itself

OUT gets a log for each part, and the table, JSON and PNG of `bench`. The next parts run even if one fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.sampling.shapes import LARGE, SMALL

QWEN2 = {
    "model_type": "qwen2", "vocab_size": 151936, "max_position_embeddings": 32768, "dtype": "bfloat16",
    "tie_word_embeddings": True, "num_key_value_heads": 2,
}  # fmt: skip
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # teacher, theta
    "small": (
        QWEN2 | {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16},
        QWEN2 | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    ),
    "large": (LARGE, SMALL),
}
TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip
LIMITS_S = {"tests": 540, "kernel": 180, "small": 420, "large": 560}


def main() -> int:
    """Run the parts one after the other; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=LIMITS_S)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", default="32,128,256")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    return sum(not run(part, options) for part in options.parts)


def run(part: str, options: argparse.Namespace) -> bool:
    """Run a part, its output to its log and the log's end to stdout; return whether it succeeded."""
    log, start = options.output / f"{part}.log", time.monotonic()
    with log.open("wb") as out:
        try:
            code = subprocess.run(
                [sys.executable, *command(part, options)], stdout=out, stderr=out, timeout=LIMITS_S[part]
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    outcome = f"exit code {code}" if code >= 0 else f"cut off at {LIMITS_S[part]} s"
    seconds, end = time.monotonic() - start, log.read_text(errors="replace")[-4000:]
    print(f"=== {part}: {outcome}, {seconds:.0f} s\n{end}", flush=True)
    return code == 0


def command(part: str, options: argparse.Namespace) -> list[str]:
    """Return the arguments of `python` for a part."""
    if part == "tests":
        return ["-m", "pytest", "-q", "tests/gpu/test_lockstep.py", "tests/gpu/test_kernel.py"]
    if part == "kernel":
        return ["-m", "tests.bench.kernel", "--rows", "32", "256", "--scales", "zipf", "0.04", "2", "4"]
    models = []
    for name, shape in zip(("teacher", "theta"), SHAPES[part], strict=True):
        folder = options.output / f"{part}-{name}"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(shape | TINY if options.tiny else shape))
        models += [f"--{name}", str(folder)]
    code = "import sys; from flows.cli.main import main; sys.exit(main())"
    return ["-c", code, "bench", *models, "--dummy-weights", "--no-compile", "--rows", options.rows,
            "--output", str(options.output / part)]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
