"""The entry point of the command line: produce, validate, report, compare, sample, serve, bench, doctor, demo."""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip  (before anything that reads the environment)

import argparse
import os
import select
import sys
import tempfile
import traceback
from collections.abc import Sequence

from flows.cli.arguments import parser
from flows.orchestration.signals import TERMINATED

PUBLISHED, FAILED, BAD_INPUT, REFUSED = 0, 1, 2, 3
INTERRUPTED = "interrupted; what is finished is kept, and the same command goes on from there"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. An error is one line on stderr."""
    args = parser().parse_args(argv)
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _print_error(INTERRUPTED)
        return FAILED
    except SystemExit as ended:
        if ended.code == TERMINATED:
            _print_error(INTERRUPTED)
        raise
    except Exception as error:  # the one place where a traceback becomes a line
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return FAILED  # its reader ended, as `| head` does
        return _fail(error, args.debug)


def _run(args: argparse.Namespace) -> int:
    """Run the command; its module is imported here, so that `--help` imports none of them."""
    match args.command:
        case "produce":
            return _produce(args)
        case "validate":
            from flows.cli.tables import print_verdict
            from flows.validate import judge_dataset, refuse

            judged = judge_dataset(args.dataset, args.overrides)
            print_verdict(*judged)
            refuse(*judged)
        case "report":
            from flows.report import write_page

            print(write_page(args.dataset, args.output)[0])
        case "compare":
            from flows.cli.tables import print_comparison
            from flows.compare import judge_both, write_comparison

            both = judge_both(args.one, args.other)
            print_comparison(both)
            if args.output is not None:
                write_comparison(both, args.output)
        case "sample":
            from flows.cli.sample import sample

            sample(args)
        case "serve":
            from flows.cli.serve import serve

            serve(args)
        case "bench":
            from flows.cli.bench.bench import bench

            bench(args)
        case "doctor":
            from flows.cli.doctor import examine

            return PUBLISHED if examine() else BAD_INPUT
        case "demo":
            from flows.demo.demo import run_demo

            print(run_demo(args.output, args.problems))
    return PUBLISHED


def _produce(args: argparse.Namespace) -> int:
    from flows.cli.configuration import load_config

    config = load_config(args.config, args.overrides, output=args.output)
    if args.dry_run is not None:
        from flows.cli.dry_run import dry_run

        dry_run(config, args.dry_run)
        return PUBLISHED
    from flows.produce import run_produce

    print(run_produce(config).address)
    return PUBLISHED


def _fail(error: Exception, debug: bool) -> int:
    """Print the error; return its exit code."""
    from sampling.errors import ConfigurationError, RefusedError, RunCancelledError

    if debug:
        traceback.print_exception(error)
    for kind, code in ((ConfigurationError, BAD_INPUT), (RefusedError, REFUSED), (RunCancelledError, FAILED)):
        if isinstance(error, kind):
            _print_error(str(error))
            return code
    _print_error(f"{type(error).__name__}: {error}{'' if debug else f' ({_log(error)})'}")
    return FAILED


def _log(error: Exception) -> str:
    """Write the traceback to a new file that only this user can read; return the text that names it."""
    try:
        handle, path = tempfile.mkstemp(prefix="dual-sampling-", suffix=".log")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:  # a full disk may be the error itself
        return "--debug shows the traceback"
    return f"traceback in {path}"


def _print_error(message: str) -> None:
    """Print the message on stderr as one line, control characters escaped."""
    from flows.cli.terminal import escape

    print(f"dual-sampling: {escape(' '.join(message.split()))}", file=sys.stderr)


def _stdout_is_closed() -> bool:
    """Return whether stdout is the broken pipe; if so redirect it to /dev/null: the interpreter flushes it at exit."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
