"""A Prometheus exporter for the totals of one sampler."""

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
    """An HTTP server of one sampler's totals, in a thread.

    `port` 0 takes any free one. A port in use logs a warning and sets `self.port` to None; the run goes on.
    """

    def __init__(self, port: int, run: str, max_num_seqs: int, address: str = "127.0.0.1") -> None:
        self._run = run
        self._max_num_seqs = max_num_seqs
        self._interval: tuple[Totals, Totals] = ({}, {})  # totals before and after the last steps
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
        """Take the current totals, as of `SamplingStats.as_dict`."""
        before, now = self._interval
        self._interval = (now if totals["num_steps"] > now.get("num_steps", 0) else before, totals)

    def collect(self) -> Iterator[Metric]:
        """Yield counters since the engine was loaded, then gauges over its last steps between two updates."""
        before, now = self._interval
        for name, (suffix, meaning) in COUNTERS.items():
            counter = CounterMetricFamily(f"dual_sampling_{suffix}", meaning, labels=["run"])
            counter.add_metric([self._run], now.get(name, 0))
            yield counter
        parts = CounterMetricFamily("dual_sampling_part_seconds", "Engine seconds by part.", labels=["run", "part"])
        for name, part in PARTS.items():
            parts.add_metric([self._run, part], now.get(name, 0))
        yield parts
        num_tokens, num_steps, seconds = (
            now.get(name, 0) - before.get(name, 0) for name in ("num_tokens", "num_steps", "total_s")
        )
        max_num_tokens = num_steps * self._max_num_seqs
        # A step draws one token for each running row (a pair of servers: for each row whose replies have arrived).
        for name, meaning, value in (
            ("max_rows_in_flight", "The engine's max_num_seqs.", self._max_num_seqs),
            ("tokens_per_second", "Tokens drawn a second of the engine.", num_tokens / seconds if seconds else 0.0),
            (
                "batch_fill",
                "Rows that a step draws for, as a share of max_num_seqs.",
                num_tokens / max_num_tokens if max_num_tokens else 0.0,
            ),
        ):
            gauge = GaugeMetricFamily(f"dual_sampling_{name}", meaning, labels=["run"])
            gauge.add_metric([self._run], value)
            yield gauge
