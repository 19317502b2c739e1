"""The child process that one job is measured in."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from flows.cli.bench.job import Job, Measured
from sampling.processes.children import environment, from_message
from sampling.processes.exits import death


def run(job: Job, log: Path, debug: bool = False) -> Measured:
    """Measure in a process of its own: its memory is that mode's, and gone before the next one.

    What the process prints is appended to `log`; with `debug` vLLM prints more. Raises what the process raised, under
    its own class (another exception than ours: EngineError), or EngineDiedError when it ended without a word.
    """
    with tempfile.TemporaryDirectory() as folder, open(log, "ab") as out:
        result = Path(folder) / "result.json"
        out.write(f"--- {job.mode}, {job.preset}, {job.rows} rows\n".encode())
        out.flush()
        start = out.tell()
        command = [sys.executable, "-P", "-m", "flows.cli.bench.measure", str(result)]
        # Ctrl-C reaches the child too; `run` waits for its end
        ended = subprocess.run(
            command,
            input=job.model_dump_json().encode(),
            stdout=out,
            stderr=out,
            env=environment(**({"VLLM_LOGGING_LEVEL": "INFO"} if debug else {})),
            check=False,
        )
        found = json.loads(result.read_bytes()) if result.exists() else None
    if found is None:
        raise death("the measuring process", ended.returncode, log, start)
    if "error" in found:
        raise from_message(found, f" (see {log})")
    return Measured.model_validate(found)
