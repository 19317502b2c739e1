"""The dry run: what `produce` would sample, shown."""

from __future__ import annotations

from collections import Counter

from flows.cli.terminal import escape
from flows.orchestration.quiet import quiet
from sampling.errors import SourceError
from sampling.models.memory import check_max_tokens, context_length
from sampling.models.vocabulary import check_stop_ids, check_vocabularies, load_tokenizer
from tasks.config import PipelineConfig
from tasks.source.rows import PreparedRow, QuarantinedRow, prepare_rows

MARGIN = "  │ "


def dry_run(config: PipelineConfig, num_rows: int) -> None:
    """Prints the recognised format with both prompts of the first rows, as the models will read them; the memory plan.

    Raises SourceError when no row can be sampled, ModelError, VocabularyMismatchError or CapacityError as sampling
    would.
    """
    theta_tokenizer, teacher_tokenizer = (
        load_tokenizer(config.models.theta),
        load_tokenizer(config.models.teacher),
    )
    check_stop_ids(config.sampling.stop_token_ids, check_vocabularies(theta_tokenizer, teacher_tokenizer))
    report, rows = prepare_rows(config.source, config.prompts, theta_tokenizer, teacher_tokenizer)
    print(f"format: {report.adapter}")
    print(f"columns: {escape(', '.join(report.columns))}")
    num_shown = 0
    reasons: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, QuarantinedRow):
            reasons[row.reason] += 1
            print(f"\nquarantined: {escape(row.row)}: {row.reason}: {escape(row.detail)}")
            continue
        num_shown += 1
        _show(num_shown, row)
        if num_shown == num_rows:
            break
    if not num_shown:
        raise SourceError(f"no row can be sampled: {dict(reasons)}; look at source.columns and the templates")
    if config.shards.run_on == "here":
        _show_memory(config)
    print("\nNothing was sampled.")


def _show_memory(config: PipelineConfig) -> None:
    """What the pair would take of this machine; nothing where no vLLM is installed, which `doctor` names.

    Raises ConfigurationError, CapacityError or ModelError as loading would.
    """
    theta, teacher = config.models.theta, config.models.teacher
    if theta.urls:
        return
    try:
        with quiet():
            from sampling.loading import plan_pair
            from sampling.models.vllm_options import device_type

            device = device_type()
    except ImportError:
        return
    check_max_tokens(config.sampling.max_tokens, min(map(context_length, (theta, teacher))))
    print()
    plan_pair(theta, teacher, config.engine, device, print)


def _show(number: int, row: PreparedRow) -> None:
    print(f"\nrow {number}, id {row.id}")
    for name, prompt in (("teacher", row.teacher_prompt), ("theta", row.theta_prompt)):
        print(f"  {name} reads:")
        print("\n".join(MARGIN + line for line in escape(prompt).split("\n")))
