"""The preview of `produce --dry-run`: the first rows' prompts and the memory plan, without sampling."""

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
    """Print the recognised format, both rendered prompts of the first rows, the memory plan.

    Raise SourceError when no row can be sampled, ModelError, VocabularyMismatchError or CapacityError as sampling
    would.
    """
    theta, teacher = config.models.theta, config.models.teacher
    tokenizers = load_tokenizer(theta), load_tokenizer(teacher)
    check_stop_ids(config.sampling.stop_token_ids, check_vocabularies(*tokenizers))
    report, rows = prepare_rows(config.source, config.prompts, *tokenizers, config.bounds)
    print(f"format: {report.adapter}")
    print(f"columns: {escape(', '.join(report.columns))}")
    for note in report.notes:
        print(escape(note))
    num_printed, has_reference = 0, False
    reasons: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, QuarantinedRow):
            reasons[row.reason] += 1
            print(f"\nquarantined: {escape(row.row)}: {row.reason}: {escape(row.detail)}")
            continue
        num_printed += 1
        has_reference |= row.example.answer is not None or row.example.final_answer is not None
        _print_row(num_printed, row)
        if num_printed == num_rows:
            break
    if not num_printed:
        raise SourceError(f"no row can be sampled: {dict(reasons)}; look at source.columns and the templates")
    if not has_reference:
        print("\nleaks not judged: no reference is known in these rows")
    if config.shards.run_on == "here" and not theta.urls:
        _print_memory(config)
    print("\nNothing was sampled.")


def _print_memory(config: PipelineConfig) -> None:
    """Print the pair's memory plan on this machine; nothing where vLLM is not installed, which `doctor` reports.

    Raise ConfigurationError, CapacityError or ModelError as loading would.
    """
    theta, teacher = config.models.theta, config.models.teacher
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


def _print_row(number: int, row: PreparedRow) -> None:
    print(f"\nrow {number}, id {escape(row.id)}")
    for name, prompt in (("teacher", row.teacher_prompt), ("theta", row.theta_prompt)):
        print(f"  {name} reads:")
        print("\n".join(MARGIN + line for line in escape(prompt).split("\n")))
