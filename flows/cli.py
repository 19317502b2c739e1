"""The command line: dual-sampling produce | validate | report | compare | sample | doctor | demo."""

from __future__ import annotations

import flows.environment  # noqa: F401  isort: skip  (before anything that reads the environment)

import argparse
import os
import select
import sys
import tempfile
import traceback
from collections.abc import Sequence

PUBLISHED, FAILED, BAD_INPUT, REFUSED = 0, 1, 2, 3
EXIT_CODES = "exit codes: 0 done, 2 a configuration or input error, 3 refused by the gate, 1 anything else"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; every error is one line on stderr and an exit code."""
    args = _parser().parse_args(argv)
    try:
        code = _run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _complain("interrupted; what is finished is kept, and the same command goes on from there")
        return FAILED
    except BrokenPipeError as error:
        if not _stdout_is_closed():
            return _fail(error, args.debug)
        return FAILED  # | head has read enough
    except Exception as error:  # the one place where a traceback becomes a line
        return _fail(error, args.debug)
    return code


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser = argparse.ArgumentParser(
        prog="dual-sampling",
        description="Draw every token from a mixture of two language models; publish the rows as a dataset.",
        epilog=EXIT_CODES,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    produce = commands.add_parser("produce", parents=[common], help="make a dataset", epilog=EXIT_CODES)
    produce.add_argument("config", metavar="CONFIG.yaml", help="flows/configs/base.yaml explains every key")
    produce.add_argument(
        "--set",
        metavar="a.b=c",
        action="append",
        default=[],
        dest="overrides",
        help="replace a key; may be repeated",
    )
    produce.add_argument("--output", metavar="DIR", help="replace publish.root")
    produce.add_argument(
        "--dry-run",
        metavar="N",
        nargs="?",
        type=_positive,
        const=3,
        help="show both prompts of the first N rows (3) and sample nothing",
    )

    dataset = "a dataset's folder, or one Parquet file of this schema"
    validate = commands.add_parser(
        "validate", parents=[common], help="judge a dataset again (0 or 3)", epilog=EXIT_CODES
    )
    validate.add_argument("dataset", metavar="DIR", help=dataset)
    validate.add_argument(
        "--set",
        metavar="limit=value",
        action="append",
        default=[],
        dest="overrides",
        help="judge by another limit, e.g. eos_rate_min=0.9; may be repeated",
    )

    report = commands.add_parser("report", parents=[common], help="one page with all figures of a dataset")
    report.add_argument("dataset", metavar="DIR", help=dataset)
    report.add_argument("-o", "--output", metavar="FILE", default="report.html", help="the page (./report.html)")

    compare = commands.add_parser("compare", parents=[common], help="two datasets side by side")
    compare.add_argument("one", metavar="A", help=dataset)
    compare.add_argument("other", metavar="B", help=dataset)
    compare.add_argument("-o", "--output", metavar="FILE", help="write a page, too, with the plots of both")

    sample = commands.add_parser("sample", parents=[common], help="stream one answer, coloured by mode and α")
    sample.add_argument("question")
    sample.add_argument("--teacher", required=True, metavar="MODEL", help="a folder or a Hub id")
    sample.add_argument("--theta", required=True, metavar="MODEL", help="a folder or a Hub id")
    sample.add_argument("--reference", metavar="TEXT", help="a hint that the teacher alone may see")
    sample.add_argument("--system", metavar="TEXT", help="system message of both models")
    sample.add_argument("--max-tokens", type=int, default=512)
    sample.add_argument("--temperature", type=float, default=1.0)
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--preset", default="balanced", help="conservative, balanced or exploratory")
    sample.add_argument("--alpha-method", default="kl_symmetry", help="kl_symmetry, ess_balance, entropy or fixed")
    sample.add_argument("--alpha", type=float, help="the teacher's weight; means --alpha-method fixed")

    commands.add_parser("doctor", parents=[common], help="what is installed, what is missing, which engine is used")

    demo = commands.add_parser("demo", parents=[common], help="two tiny models solve arithmetic problems")
    demo.add_argument("--output", metavar="DIR", default="published", help="where the dataset goes (./published)")
    demo.add_argument("--problems", type=_positive, default=64, metavar="N", help="how many held-out problems (64)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _run(args: argparse.Namespace) -> int:
    """Imports a command's module only when it runs: `--help` answers at once."""
    match args.command:
        case "produce":
            return _produce(args)
        case "validate":
            from flows.validate import judge_dataset, print_verdict, refuse

            judged = judge_dataset(args.dataset, args.overrides)
            print_verdict(*judged)
            refuse(*judged)
        case "report":
            from flows.report import write_page

            print(write_page(args.dataset, args.output)[0])
        case "compare":
            from flows.compare import judge_both, print_comparison, write_comparison

            both = judge_both(args.one, args.other)
            print_comparison(both)
            if args.output is not None:
                write_comparison(both, args.output)
        case "sample":
            from flows.sample import sample

            sample(args)
        case "doctor":
            from flows.doctor import examine

            return PUBLISHED if examine() else BAD_INPUT
        case "demo":
            from flows.demo.demo import run_demo

            print(run_demo(args.output, args.problems))
    return PUBLISHED


def _produce(args: argparse.Namespace) -> int:
    from flows.configuration import load_config

    config = load_config(args.config, args.overrides, output=args.output)
    if args.dry_run is not None:
        from flows.dry_run import dry_run

        dry_run(config, args.dry_run)
        return PUBLISHED
    from flows.produce import run_produce

    print(run_produce(config).path)
    return PUBLISHED


def _fail(error: Exception, debug: bool) -> int:
    from sampling.errors import ConfigurationError, RefusedError

    if debug:
        traceback.print_exception(error)
    if isinstance(error, ConfigurationError):
        _complain(str(error))
        return BAD_INPUT
    if isinstance(error, RefusedError):
        _complain(str(error))
        return REFUSED
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
    from flows.terminal import escape

    print(f"dual-sampling: {escape(' '.join(message.split()))}", file=sys.stderr)


def _stdout_is_closed() -> bool:
    """Whether stdout is the pipe that broke; silences it, for the interpreter flushes it again at exit."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


if __name__ == "__main__":
    sys.exit(main())
