"""A produce run before its flow does any work: its identity, its lock, its published dataset."""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip  (before vLLM)

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.orchestration.environment import limit_deployment
from flows.orchestration.secrets import storage_options
from sampling.errors import RefusedError
from sampling.models.memory import check_max_tokens, context_length
from sampling.models.vocabulary import check_stop_ids, check_vocabularies, load_tokenizer
from sampling.permissions import check_output, check_server
from tasks.config import PipelineConfig
from tasks.publish.dataset import open_dataset
from tasks.publish.judge import judge_again
from tasks.publish.publish import finish
from tasks.run.folder import RunFolder
from tasks.run.identity import identity_of
from tasks.run.lock import locked
from tasks.source.rows import PreparedRow, QuarantinedRow, SourceReport, prepare_rows
from tasks.store.durable import output_errors
from validations.limits import Limits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class ProduceResult:
    """A published dataset."""

    address: str  # a folder or a URL
    published: bool
    metrics: dict[str, Any]
    refusals: list[str]
    quarantine: dict[str, int]  # by reason

    @classmethod
    def of(cls, folder: RunFolder, manifest: dict[str, Any]) -> ProduceResult:
        """Return the result of a run whose dataset is published."""
        return cls(folder.address(folder.published), True, manifest["figures"], [], manifest["quarantine"])

    @property
    def path(self) -> Path:
        """The folder; a dataset in an object store has none."""
        assert "://" not in self.address, "a URL is no folder: read `address`"
        return Path(self.address)


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run whose identity is known, before anything is written."""

    folder: RunFolder
    report: SourceReport
    rows: Iterator[PreparedRow | QuarantinedRow]
    theta: PreTrainedTokenizerBase
    teacher: PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class LockedRun(OpenedRun):
    """A run whose folder this process has locked."""

    published: ProduceResult | None  # by an earlier run
    check_lock: Callable[[], None]  # raises OutputError when the lock is lost


def open_run(config: PipelineConfig) -> OpenedRun:
    """Read the tokenizers and the source, which the run's identity depends on; write nothing, load no engine.

    Raises ForbiddenError, ModelError, VocabularyMismatchError, CapacityError, SourceError, TemplateError, OutputError.
    """
    limit_deployment()
    check_output(config.publish.root, "publish.root")
    for url in (*config.models.theta.urls, *config.models.teacher.urls):
        check_server(url)
    theta = load_tokenizer(config.models.theta)
    teacher = load_tokenizer(config.models.teacher)
    check_stop_ids(config.sampling.stop_token_ids, check_vocabularies(theta, teacher))
    contexts = context_length(config.models.theta), context_length(config.models.teacher)
    check_max_tokens(config.sampling.max_tokens, min(contexts))
    report, rows = prepare_rows(config.source, config.prompts, theta, teacher, config.bounds)
    folder = RunFolder.of(config, identity_of(config, report), storage_options(config.publish.root))
    for path in (folder.work, folder.published, folder.refused):  # one of them may be a link
        check_output(folder.address(path), "publish.root")
    return OpenedRun(folder, report, rows, theta, teacher)


@contextmanager
def lock_run(config: PipelineConfig, run: OpenedRun) -> Iterator[LockedRun]:
    """Lock a run's folder, then look for its published dataset. Raises what `locked` raises, RefusedError."""
    with locked(run.folder, config.shards.run_on) as check_lock:
        published = _find_published(run.folder, config.validation, check_lock)
        yield LockedRun(run.folder, run.report, run.rows, run.theta, run.teacher, published, check_lock)


def _find_published(folder: RunFolder, limits: Limits, check_lock: Callable[[], None]) -> ProduceResult | None:
    """Return the run's published dataset, after finishing what a crash right after the publication left undone.

    Raises RefusedError when it fails `limits` that differ from those it was published by.
    """
    manifest = folder.find_published()
    if manifest is None:
        return None
    if manifest["config"]["validation"] != limits.model_dump(mode="json"):
        folder.download(folder.published)
        verdict = judge_again(open_dataset(folder.published), limits)
        if not verdict.passed:
            address = folder.address(folder.published)
            raise RefusedError(
                f"{'; '.join(verdict.refusals)}; {address} was published by other limits, and stays as it is"
            )
    with output_errors(folder.work):
        if folder.was_begun():
            folder.tidy(check_lock)
            finish(folder, check_lock)
        else:  # published long ago: `latest` may name a later version, and stays
            folder.remove_work()
    return ProduceResult.of(folder, manifest)
