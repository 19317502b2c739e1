"""What the engine's process tells a Prometheus that asks it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

COUNTERS = {
    "num_tokens": ("tokens", "Tokens drawn."),
    "num_forced": ("forced_tokens", "First tokens drawn from the teacher."),
    "num_fallback": ("fallback_tokens", "Tokens drawn from the teacher because theta was too far away."),
    "num_requests": ("rows", "Completions finished."),
    "num_failed": ("failed_rows", "Completions that could not be sampled."),
    "num_steps": ("steps", "Steps of the engine."),
    "total_s": ("engine_seconds", "Wall time of the stepping thread."),
}
Totals = Mapping[str, float]
PARTS = {"theta_s": "theta", "teacher_s": "teacher", "mixing_s": "mixing"}


class Metrics(Collector):
    """The totals of one sampler, served over HTTP from a thread of their own.

    `port` 0 takes any free one. A port that is taken costs a warning, not the run: `self.port` is None then.
    """

    def __init__(self, port: int, run: str, max_num_seqs: int, address: str = "127.0.0.1") -> None:
        self._run = run
        self._max_num_seqs = max_num_seqs
        self._interval: tuple[Totals, Totals] = ({}, {})  # before and after the steps that were last
        registry = CollectorRegistry()
        registry.register(self)
        try:
            server, _ = start_http_server(port, address, registry)
        except OSError as error:
            logger.warning("%s:%d serves no metrics (%s); choose another port", address, port, error.strerror)
            self.port = None
        else:
            self.port = server.server_port

    def update(self, totals: Totals) -> None:
        """Take what `SamplingStats.as_dict` gives."""
        before, now = self._interval
        self._interval = (now if totals["num_steps"] > now.get("num_steps", 0) else before, totals)

    def collect(self) -> Iterator[Metric]:
        """Counters since the engine was loaded, gauges of its last steps between two updates."""
        before, now = self._interval
        for name, (word, meaning) in COUNTERS.items():
            counter = CounterMetricFamily(f"dual_sampling_{word}", meaning, labels=["run"])
            counter.add_metric([self._run], now.get(name, 0))
            yield counter
        parts = CounterMetricFamily("dual_sampling_part_seconds", "Engine seconds by part.", labels=["run", "part"])
        for name, part in PARTS.items():
            parts.add_metric([self._run, part], now.get(name, 0))
        yield parts
        num_tokens, num_steps, seconds = (
            now.get(name, 0) - before.get(name, 0) for name in ("num_tokens", "num_steps", "total_s")
        )
        yield self._gauge("max_rows_in_flight", "The engine's max_num_seqs.", self._max_num_seqs)
        yield self._gauge("tokens_per_second", "Tokens drawn a second of the engine.", _ratio(num_tokens, seconds))
        # A step draws one token for each row that runs (a pair of servers: for each row whose replies are there).
        fill = _ratio(num_tokens, num_steps * self._max_num_seqs)
        yield self._gauge("batch_fill", "Rows that a step draws for, as a share of max_num_seqs.", fill)

    def _gauge(self, name: str, meaning: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(f"dual_sampling_{name}", meaning, labels=["run"])
        gauge.add_metric([self._run], value)
        return gauge


def _ratio(value: float, whole: float) -> float:
    return value / whole if whole else 0.0
