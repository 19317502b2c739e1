"""Tests of models in real CPU workers, against the same models loaded into this process.

Never run on several GPUs, where the copy of hidden states to the device differs, and NCCL replaces gloo.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from sampling import DualOutput, DualPrompt, DualSampler, EngineConfig, ModelConfig, SamplingConfig
from sampling.engine.lockstep import LockstepEngine
from sampling.engine.shared_weights import SharedWeightsEngine
from sampling.engine.vllm_engine import VllmEngine
from sampling.errors import EngineDiedError, ModelError
from sampling.models.vllm_options import limit_threads
from sampling.workers.engine import RemoteEngine
from tests.sampling.conftest import MAX_MODEL_LEN, lockstep

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
CACHE_BYTES = 32 << 20
NUM_ROWS, MAX_TOKENS, HIDDEN, COLUMNS = 12, 12, 64, 272
CONFIG = EngineConfig(max_num_seqs=6, max_num_batched_tokens=MAX_MODEL_LEN)
TWO_IN_FLIGHT = CONFIG.model_copy(update={"async_scheduling": True})
PARENT = """
import os, sys, time
from sampling.config import EngineConfig, ModelConfig
from sampling.workers.workers import Workers
workers = Workers("theta", (1,), os.memfd_create("shared"), on_gpus=False)
workers.send("load", ModelConfig(model=sys.argv[1]), EngineConfig(max_num_seqs=2), 64, 16 << 20, 1)
workers.receive(1)
print(*workers.pids, flush=True)
time.sleep(600)
"""


@dataclass
class Loaded:
    """The models of the tests, loaded concurrently, which takes half a minute."""

    apart: DualSampler
    theta: RemoteEngine  # theta's engine in `apart`; two steps may be in flight
    halves: RemoteEngine  # on two workers
    tied: RemoteEngine  # the teacher's engine in `apart`, whose head is its embedding; likewise
    tied_here: VllmEngine  # never closed: the last test interrupts one of its steps
    broken: RemoteEngine
    broken_model: ModelConfig
    parent: subprocess.Popen[str]


@pytest.fixture(scope="module")
def loaded(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    folder = tmp_path_factory.mktemp("remote")
    limit_threads(1)  # as the sampler does for models of this size
    theta, tied, broken = str(tiny_pair[1]), _tied(tiny_pair[1], folder), _broken(tiny_pair[1], folder)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, theta], stdout=subprocess.PIPE, text=True)
    halves, bad = start("theta", theta, 2), start("theta", broken)
    engines = [halves, bad]
    try:
        tied_here = VllmEngine(ModelConfig(model=tied), CONFIG, MAX_MODEL_LEN, CACHE_BYTES)
        apart = DualSampler(
            ModelConfig(model=tied, max_model_len=MAX_MODEL_LEN, devices=(2,)),
            ModelConfig(model=theta, max_model_len=MAX_MODEL_LEN, devices=(1,)),
            engine=TWO_IN_FLIGHT,
        )
        for engine in (lockstep(apart).theta, lockstep(apart).teacher):
            assert isinstance(engine, RemoteEngine)
            engines.append(engine)
        halves.wait_until_loaded()
        yield Loaded(apart, engines[2], halves, engines[3], tied_here, bad, ModelConfig(model=broken), parent)
    finally:
        parent.kill()
        for engine in engines:
            engine.close()


def start(name: str, model: str, size: int = 1) -> RemoteEngine:
    """Start loading a model in workers."""
    info = ModelConfig(model=model, tensor_parallel_size=size)
    devices = range(1, size + 1)
    return RemoteEngine(name, info, CONFIG, MAX_MODEL_LEN, CACHE_BYTES, devices=devices, device=CPU)


def _tied(source: Path, folder: Path) -> str:
    config = transformers.Qwen3Config.from_pretrained(source)
    config.tie_word_embeddings = True
    torch.manual_seed(5)
    model = transformers.Qwen3ForCausalLM(config).float()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(10)  # a random embedding's logits are near zero
    model.save_pretrained(folder / "tied")
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder / "tied")
    return str(folder / "tied")


def _broken(source: Path, folder: Path) -> str:
    shutil.copytree(source, folder / "broken")
    info = json.loads((source / "config.json").read_text())
    info["architectures"] = ["NoSuchModelForCausalLM"]
    (folder / "broken" / "config.json").write_text(json.dumps(info))
    return str(folder / "broken")


def coupled(
    sampler: DualSampler, theta: Any, teacher: Any, steps_in_flight: int = 1, max_num_seqs: int = CONFIG.max_num_seqs
) -> DualSampler:
    """Return a copy of the sampler with other models."""
    other = copy.copy(sampler)
    num_ids = lockstep(sampler).num_ids
    other._engine = LockstepEngine(theta, teacher, num_ids, max_num_seqs, steps_in_flight=steps_in_flight)
    return other


def rows() -> list[DualPrompt]:
    """Return prompts of 3 to 60 bytes; with their tokens none fills a block of the prefix cache."""
    rng = np.random.default_rng(0)
    text = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, size)) for size in rng.integers(3, 60, 24)]
    return [DualPrompt(teacher=text[2 * i], theta=text[2 * i + 1], id=f"row-{i}") for i in range(NUM_ROWS)]


def sample(sampler: DualSampler) -> list[DualOutput]:
    return sampler.generate(rows(), SamplingConfig(max_tokens=MAX_TOKENS, seed=3), progress=False)


def assert_equal(ours: list[DualOutput], theirs: list[DualOutput], tolerance: float = 0.0) -> None:
    """Assert the same tokens, and diagnostics within a tolerance."""
    assert [out.token_ids for out in ours] == [out.token_ids for out in theirs]
    assert sum(len(out.token_ids) for out in ours) > NUM_ROWS * MAX_TOKENS / 2
    for our, their in zip(ours, theirs, strict=True):
        for name in our.diagnostics.__annotations__:
            a, b = getattr(our.diagnostics, name), getattr(their.diagnostics, name)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int) -> bool:
    """Return whether a process ends within 10 s."""
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


def test_theta_in_a_worker_equals_local(sampler: DualSampler, loaded: Loaded) -> None:
    assert loaded.theta.head is not None
    assert_equal(sample(coupled(sampler, loaded.theta, lockstep(sampler).teacher)), sample(sampler))
    assert loaded.theta.buffer.shape == (CONFIG.max_num_seqs, HIDDEN)  # not COLUMNS: no logits are sent


def test_both_in_workers_equal_local(sampler: DualSampler, loaded: Loaded) -> None:
    """The teacher's head is its embedding."""
    assert loaded.tied.head is not None
    expected = sample(coupled(sampler, lockstep(sampler).theta, loaded.tied_here))
    assert_equal(sample(coupled(sampler, loaded.theta, loaded.tied)), expected)
    assert loaded.tied.buffer.shape == (CONFIG.max_num_seqs, HIDDEN)


def test_two_steps_in_flight_equal_one(sampler: DualSampler, loaded: Loaded) -> None:
    # batches differ, which moves logits by 1e-6
    expected = sample(coupled(sampler, loaded.theta, loaded.tied))
    assert_equal(sample(loaded.apart), expected, tolerance=1e-3)


def test_an_unknown_head_sends_logits(sampler: DualSampler, loaded: Loaded) -> None:
    head = loaded.tied.head
    expected = sample(coupled(sampler, loaded.theta, loaded.tied))
    loaded.tied._serve(None)
    assert_equal(sample(coupled(sampler, loaded.theta, loaded.tied)), expected)
    assert loaded.tied.buffer.shape == (CONFIG.max_num_seqs, COLUMNS)
    loaded.tied._serve(head)


def test_shared_weights_in_a_worker_equal_local(sampler: DualSampler, loaded: Loaded) -> None:
    """Theta reads both prompts: two requests a row, so half as many rows."""
    outputs = []
    engines: list[Any] = [loaded.theta, lockstep(sampler).theta]
    for engine in engines:
        model = SharedWeightsEngine(engine, (MAX_MODEL_LEN, MAX_MODEL_LEN), (False, False))
        outputs.append(sample(coupled(sampler, model.theta, model.teacher, max_num_seqs=CONFIG.max_num_seqs // 2)))
    assert_equal(outputs[0], outputs[1])


def test_theta_split_over_two_workers_equals_local(sampler: DualSampler, loaded: Loaded) -> None:
    assert loaded.halves.head is not None
    assert len(loaded.halves._workers.pids) == 2
    pair = coupled(sampler, loaded.halves, lockstep(sampler).teacher)
    # sums over a split dimension are in another order: logits of 11 move by 3e-6
    assert_equal(sample(pair), sample(sampler), tolerance=1e-3)
    assert loaded.halves.buffer.shape == (CONFIG.max_num_seqs, HIDDEN)


def test_logits_of_a_split_model_equal_the_whole(loaded: Loaded) -> None:
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    logits = []
    for engine in (loaded.theta, loaded.halves):
        engine.add("row", ids, 4)
        engine.begin_forward(1)
        with torch.inference_mode():
            request_ids, found = engine.forward(1)
        assert request_ids == ["row"]
        assert found.shape == (1, COLUMNS)
        logits.append(found.clone())
        engine.set_sampled_tokens(torch.tensor([7]))
        engine.update_from_output()
        engine.finish(["row"])
    torch.testing.assert_close(*logits, rtol=0, atol=1e-4)
    assert logits[0].abs().max() > 1


def test_a_load_error_is_the_same_in_a_worker(loaded: Loaded) -> None:
    with pytest.raises(ModelError) as here:
        VllmEngine(loaded.broken_model, CONFIG, MAX_MODEL_LEN, CACHE_BYTES)
    with pytest.raises(ModelError) as there:
        loaded.broken.wait_until_loaded()
    assert str(there.value) == str(here.value)
    assert not any(is_alive(pid) for pid in loaded.broken._workers.pids)


def test_workers_end_with_the_process_that_started_them(loaded: Loaded) -> None:
    assert loaded.parent.stdout is not None
    (pid,) = map(int, loaded.parent.stdout.readline().split())
    assert is_alive(pid)
    loaded.parent.kill()
    loaded.parent.wait()
    assert ends(pid)


def test_a_killed_worker_is_reported(sampler: DualSampler, loaded: Loaded) -> None:
    """The surviving worker waits for the dead one inside vLLM.

    The last test: it ends theta's two workers, and interrupts a step of `tied_here`.
    """
    pids = loaded.halves._workers.pids
    shared = f"{loaded.halves._workers._port}-*cpushm*"
    assert list(Path("/dev/shm").glob(shared))
    found = coupled(sampler, loaded.halves, loaded.tied_here).run(rows(), SamplingConfig(max_tokens=MAX_TOKENS))
    next(found)
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(EngineDiedError, match=r"theta's worker 1 of 2 \(process \d+\) ended by SIGKILL.*run the same"):
        list(found)
    assert all(ends(pid) for pid in pids)
    assert not list(Path("/dev/shm").glob(shared))
    with pytest.raises(EngineDiedError, match="theta's worker 1"):
        loaded.halves.forward(1)
