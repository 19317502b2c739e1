"""The argument parser of the command line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

    from sampling.errors import ConfigurationError

EXIT_CODES = "exit codes: 0 done, 2 a configuration or input error, 3 refused by the gate, 1 anything else"


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command. It imports nothing heavy: `--help` takes milliseconds."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="print the traceback of an error")
    whole = argparse.ArgumentParser(
        prog="dual-sampling",
        description="Draw every token from a mixture of two language models; publish the rows as a dataset.",
        epilog=EXIT_CODES,
    )
    commands = whole.add_subparsers(dest="command", required=True)

    def command(name: str, help_text: str, epilog: str | None = None) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[common], help=help_text, epilog=epilog)

    overrides: dict[str, Any] = {"action": "append", "default": [], "dest": "overrides"}

    produce = command("produce", "make a dataset", EXIT_CODES)
    produce.add_argument("config", metavar="CONFIG.yaml", help="flows/configs/base.yaml explains every key")
    produce.add_argument("--set", metavar="a.b=c", help="replace a key; may be repeated", **overrides)
    produce.add_argument("--output", metavar="DIR", help="replace publish.root")
    dry_run = "show both prompts of the first N rows (3) and sample nothing"
    produce.add_argument("--dry-run", metavar="N", nargs="?", type=_positive, const=3, help=dry_run)

    dataset = "a dataset's folder, or one Parquet file of this schema"
    validate = command("validate", "judge a dataset again (0 or 3)", EXIT_CODES)
    validate.add_argument("dataset", metavar="DIR", help=dataset)
    another = "judge by another limit, e.g. eos_rate_min=0.9; may be repeated"
    validate.add_argument("--set", metavar="limit=value", help=another, **overrides)

    report = command("report", "one page with all figures of a dataset")
    report.add_argument("dataset", metavar="DIR", help=dataset)
    report.add_argument("-o", "--output", metavar="FILE", default="report.html", help="the page (./report.html)")

    compare = command("compare", "two datasets side by side")
    compare.add_argument("one", metavar="A", help=dataset)
    compare.add_argument("other", metavar="B", help=dataset)
    compare.add_argument("-o", "--output", metavar="FILE", help="write a page, too, with the plots of both")

    sample = command("sample", "stream one answer, coloured by mode and α")
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

    serve = command("serve", "start theta's and the teacher's server on this machine")
    serve.add_argument("--teacher", required=True, metavar="MODEL", help="a folder or a Hub id")
    serve.add_argument("--theta", required=True, metavar="MODEL", help="a folder or a Hub id")
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1)")
    serve.add_argument("--allow-anonymous", action="store_true", help="let other machines in without a key, too")
    serve.add_argument("--theta-port", type=_positive, default=9000, metavar="N")
    serve.add_argument("--teacher-port", type=_positive, default=9001, metavar="N")
    serve.add_argument("--max-model-len", type=_positive, metavar="N", help="context, tokens (the models' own)")
    serve.add_argument("--max-num-seqs", type=_positive, default=64, metavar="N", help="rows in flight (64)")
    serve.add_argument("--max-logprobs", type=_positive, default=1000, metavar="N", help="the largest top-k (1000)")
    serve.add_argument("--logs", default="serve-logs", metavar="DIR", help="theta.log, teacher.log (./serve-logs)")

    bench = command("bench", "speed: each model alone, lockstep, served")
    bench.add_argument("--teacher", metavar="MODEL", help="a folder or a Hub id (the demo's)")
    bench.add_argument("--theta", metavar="MODEL", help="a folder or a Hub id (the demo's)")
    bench.add_argument("--rows", type=_positives, default=[32], metavar="N,N", help="rows in flight (32)")
    bench.add_argument("--max-tokens", type=_positive, default=128, metavar="N", help="tokens a row (128)")
    bench.add_argument("--prompt-tokens", type=_positive, default=64, metavar="N", help="tokens of each prompt (64)")
    bench.add_argument("--preset", default="balanced", help="conservative, balanced or exploratory")
    bench.add_argument("--dummy-weights", action="store_true", help="the models are folders with a config.json alone")
    bench.add_argument("--no-compile", action="store_true", help="load without torch.compile: seconds, not minutes")
    bench.add_argument("--http", action="store_true", help="serve both on this machine, too, and couple them")
    bench.add_argument("--theta-url", metavar="URL", help="couple these servers instead")
    bench.add_argument("--teacher-url", metavar="URL")
    bench.add_argument("--output", default="bench", metavar="DIR", help="bench.json, bench.png (./bench)")

    for loading in (serve, bench):
        loading.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
        share = "share of a GPU for the pair (0.9)"
        loading.add_argument("--gpu-memory-utilization", type=float, default=0.9, metavar="X", help=share)

    command("doctor", "what is installed, what is missing, which engine is used")

    demo = command("demo", "two tiny models solve arithmetic problems")
    demo.add_argument("--output", metavar="DIR", default="published", help="where the dataset goes (./published)")
    demo.add_argument("--problems", type=_positive, default=64, metavar="N", help="how many held-out problems (64)")
    return whole


def option_error(error: ValidationError) -> ConfigurationError:
    """Return a ConfigurationError that names the first refused option, its value, pydantic's message.

    A ValueError's message is ours, and quotes what may be quoted.
    """
    from sampling.errors import ConfigurationError

    detail = error.errors()[0]
    option = "--" + str(detail["loc"][0]).replace("_", "-")
    value = f"{detail['input']!r} is not allowed: " if detail["type"] != "value_error" else ""
    return ConfigurationError(f"{option}: {value}{detail['msg']}")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _positives(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]
