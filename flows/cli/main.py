"""The command line: dual-sampling produce | validate | report | compare | sample | serve | bench | doctor | demo."""

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
    """Runs one command; every error is one line on stderr and an exit code."""
    args = parser().parse_args(argv)
    try:
        code = _run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _complain(INTERRUPTED)
        return FAILED
    except SystemExit as ended:
        if ended.code == TERMINATED:
            _complain(INTERRUPTED)
        raise
    except BrokenPipeError as error:
        if not _stdout_is_closed():
            return _fail(error, args.debug)
        return FAILED  # | head has read enough
    except Exception as error:  # the one place where a traceback becomes a line
        return _fail(error, args.debug)
    return code


def _run(args: argparse.Namespace) -> int:
    """Imports a command's module only when it runs: `--help` answers at once."""
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
    from sampling.errors import ConfigurationError, RefusedError, RunCancelledError

    if debug:
        traceback.print_exception(error)
    if isinstance(error, ConfigurationError):
        _complain(str(error))
        return BAD_INPUT
    if isinstance(error, RefusedError):
        _complain(str(error))
        return REFUSED
    if isinstance(error, RunCancelledError):
        _complain(str(error))
        return FAILED
    where = "" if debug else f" ({_log(error)})"
    _complain(f"{type(error).__name__}: {error}{where}")
    return FAILED


def _log(error: Exception) -> str:
    """Writes the traceback to a new file that this user alone can read; says where."""
    try:
        handle, path = tempfile.mkstemp(prefix="dual-sampling-", suffix=".log")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:  # the disk may be what is wrong
        return "--debug shows the traceback"
    return f"traceback in {path}"


def _complain(message: str) -> None:
    """One line, whatever the message holds."""
    from flows.cli.terminal import escape

    print(f"dual-sampling: {escape(' '.join(message.split()))}", file=sys.stderr)


def _stdout_is_closed() -> bool:
    """Whether stdout is the pipe that broke; silences it, for the interpreter flushes it again at exit."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
