"""The `serve` command: runs the two models' vLLM servers until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from types import FrameType

import yaml
from pydantic import ValidationError

from flows.cli.arguments import option_error
from sampling.config import EngineConfig, ModelConfig
from sampling.served.serving import Servers, ServingConfig

LINE_EVERY_S = 10.0  # interval of progress lines where stderr is not a terminal


def serve(args: argparse.Namespace) -> None:
    """Start both servers, print their addresses and the lines for a configuration, wait.

    Ctrl-C or SIGTERM stops both and is a normal end. Raise what `Servers` raises, EngineDiedError if a server ends by
    itself.
    """
    config = _config(args)
    progress = _Progress()
    try:
        with _sigterm_as_ctrl_c():
            try:
                with closing(Servers(config, progress)) as servers:
                    _print_addresses(config, servers)
                    servers.watch()
            finally:
                progress.end_line()
    except KeyboardInterrupt:
        print("both servers are stopped", file=sys.stderr)


def _config(args: argparse.Namespace) -> ServingConfig:
    model = {"dtype": args.dtype, "max_model_len": args.max_model_len}
    try:
        return ServingConfig(
            theta=ModelConfig(model=args.theta, **model),
            teacher=ModelConfig(model=args.teacher, **model),
            engine=EngineConfig(max_num_seqs=args.max_num_seqs, gpu_memory_utilization=args.gpu_memory_utilization),
            host=args.host,
            theta_port=args.theta_port,
            teacher_port=args.teacher_port,
            max_logprobs=args.max_logprobs,
            logs=args.logs,
            allow_anonymous=args.allow_anonymous,
        )
    except ValidationError as error:
        raise option_error(error) from None


def _print_addresses(config: ServingConfig, servers: Servers) -> None:
    theta_url, teacher_url = servers.urls
    print(f"theta    {theta_url}\nteacher  {teacher_url}\n\nFor a configuration (Ctrl-C stops both servers):\n")
    models = {
        "theta": {"model": config.theta.model, "url": theta_url},
        "teacher": {"model": config.teacher.model, "url": teacher_url},
    }
    # the width keeps a long path on one line
    print(yaml.safe_dump({"models": models}, default_flow_style=None, sort_keys=False, width=10_000), flush=True)


class _Progress:
    """Start-up progress on stderr: one overwritten line in a terminal, otherwise a line every LINE_EVERY_S."""

    def __init__(self) -> None:
        self._is_open = False  # whether the terminal's line is unfinished
        self._printed: Sequence[str] = ()
        self._printed_s = 0.0

    def __call__(self, starting: Sequence[str], elapsed_s: float) -> None:
        text = f"starting {' and '.join(starting)}: {elapsed_s:.0f} s" if starting else f"ready in {elapsed_s:.0f} s"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self._is_open = True
            if not starting:
                self.end_line()
        elif list(starting) != list(self._printed) or elapsed_s - self._printed_s >= LINE_EVERY_S:
            print(text, file=sys.stderr, flush=True)
            self._printed, self._printed_s = starting, elapsed_s

    def end_line(self) -> None:
        """End the terminal's line, so that the next output starts its own."""
        if self._is_open:
            print(file=sys.stderr)
        self._is_open = False


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
