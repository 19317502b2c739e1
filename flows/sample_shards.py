"""The flow that samples a run's remaining shards on one engine, on any machine that reads the run's folder."""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip  (before Prefect, vLLM, Great Expectations)

import socket
from collections.abc import Iterable
from contextlib import closing

from prefect import flow
from prefect.runtime import flow_run

from flows.orchestration.cancellation import cancellation_polling
from flows.orchestration.environment import limit_deployment
from flows.orchestration.logs import log_to_prefect
from flows.orchestration.secrets import server_keys, storage_options
from sampling.errors import EngineDiedError, EngineError, OutputError, UnsupportedVllmError
from sampling.models.folder import model_folder
from sampling.models.installed import installed_engine
from sampling.models.lora import adapter_of
from sampling.permissions import check_output
from tasks.config import PipelineConfig
from tasks.run.claims import Claims
from tasks.run.folder import OWN_ENGINE, RunFolder
from tasks.run.heartbeat import Heartbeat
from tasks.run.plan import read_plan
from tasks.store.durable import output_errors
from tasks.worker.engine_process import EngineProcess
from tasks.worker.shard import give_up, retry_options, sample_shard

MAX_LOST = 10  # runs in a row that died while they held a shard: workers may come and go
MAX_FAILING = 3  # shards in a row: then the shards are not the cause


@flow(name="sample-shards")
def sample_shards(work: str, run_sha256: str | None = None) -> int:
    """Sample each remaining shard that no other run samples; return how many those were.

    Args:
        work: The run's work folder, <root>/<name>/.work/<version>, or its URL.
        run_sha256: The digest of the run.json in it, which the run that waits for the shards logs; a URL needs it.
    """
    with cancellation_polling():
        return _sample_shards(work, run_sha256)


def _sample_shards(work: str, run_sha256: str | None = None) -> int:
    limit_deployment()
    check_output(work, "work")
    folder, config = RunFolder.at(work, storage_options(work), run_sha256)
    ours = installed_engine()
    if (theirs := folder.identity.get("engine", ours)) != ours:
        raise OutputError(f"{work} was begun on {theirs}; {socket.gethostname()} has {ours}: install the same there")
    for model in (config.models.theta, config.models.teacher):  # here: the engine's process has no token of the Hub
        model_folder(model)
        adapter_of(model)
    plan = read_plan(folder)
    if plan is None:
        raise OutputError(f"{work} holds no plan.json yet: start the run that plans its rows first")
    log_to_prefect()
    run = str(flow_run.id)
    with (
        output_errors(folder.work),
        Heartbeat(folder, run) as heartbeat,
        EngineProcess(config, folder, server_keys(config), name=f"{OWN_ENGINE}-{run[:8]}") as engine,
        closing(Claims(folder, run).each_free(plan.num_shards)) as shards,
    ):
        return _sample(folder, config, shards, engine, heartbeat)


def _sample(
    folder: RunFolder,
    config: PipelineConfig,
    shards: Iterable[tuple[int, int]],
    engine: EngineProcess,
    heartbeat: Heartbeat,
) -> int:
    """Sample the shards; give up those that fail, which the run that waits for all then names."""
    one_shard = sample_shard.with_options(**retry_options(config.shards))
    num_sampled = num_failing = 0
    for index, num_lost in shards:
        try:
            if num_lost >= MAX_LOST:
                raise EngineDiedError(f"shard {index:05d}: {num_lost} runs in a row were lost with their process")
            one_shard(folder, index, config.sampling.n, engine, heartbeat.show)
        except UnsupportedVllmError:
            raise
        except EngineError as error:
            num_failing += 1
            if num_failing == MAX_FAILING:
                raise
            give_up(folder.shard(index), error)
        else:
            num_failing = 0
            num_sampled += 1
        heartbeat.set_idle()
    return num_sampled
