"""The launcher of the measuring process."""

from __future__ import annotations

from pathlib import Path

from flows.cli.bench.metrics import Measured
from flows.cli.bench.plan import Job
from sampling.processes.child import Child
from sampling.processes.environment import PROXIES
from sampling.processes.errors import from_message
from sampling.processes.exits import exit_error
from sampling.served.config import key_variable

END_TIMEOUT_S = 30.0


def run(job: Job, log: Path, debug: bool = False) -> Measured:
    """Measure a job in a process of its own, so that its peak memory is that mode's and is freed before the next one.

    The process's output is appended to `log`; with `debug` vLLM prints more. Raise the process's own error in its class
    (EngineError for an exception that is no DualSamplingError), EngineDiedError if it ended without a result.
    """
    with open(log, "ab") as out:
        out.write(f"--- {job.mode}, {job.preset}, {job.rows} rows\n".encode())
        out.flush()
        start = out.tell()
        variables = {"VLLM_LOGGING_LEVEL": "INFO"} if debug else None
        keys = (key_variable("theta"), key_variable("teacher")) if job.mode == "http" else ()
        child = Child("flows.cli.bench.measure:serve", out, variables=variables, keep=(*PROXIES, *keys))
    try:
        child.connection.send(job)
        kind, payload = child.connection.recv()
    except (EOFError, OSError):
        raise exit_error("the measuring process", child.process.wait(END_TIMEOUT_S), log, start) from None
    finally:
        child.kill(END_TIMEOUT_S)
    if kind == "error":
        raise from_message(payload, f" (see {log})")
    assert isinstance(payload, Measured)
    return payload
