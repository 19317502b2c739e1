"""Tests of the Prometheus exporter."""

from __future__ import annotations

import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sampling.engine.stats import SamplingStats
from tasks.worker.prometheus import COUNTERS, PARTS, Metrics


def scraped(metrics: Metrics) -> dict[str, float]:
    """Return every value by its name, with its part if it has one; all are of one run."""
    reply = httpx.get(f"http://127.0.0.1:{metrics.port}/metrics")
    reply.raise_for_status()
    values = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("run") == "0123456789ab"
            values[".".join([sample.name.removeprefix("dual_sampling_"), *labels.values()])] = sample.value
    return values


def test_totals_are_counters_and_the_last_steps_gauges() -> None:
    metrics = Metrics(0, "0123456789ab", max_num_seqs=8)
    before = scraped(metrics)
    assert before.pop("max_rows_in_flight") == 8
    assert set(before.values()) == {0.0}

    stats = SamplingStats(num_requests=3, num_tokens=100, num_fallback=5, num_steps=50, total_s=10.0, theta_s=4.0)
    metrics.update(stats.as_dict())
    stats.num_tokens, stats.num_steps, stats.total_s, stats.num_failed = 160, 60, 12.0, 1
    metrics.update(stats.as_dict())
    found = scraped(metrics)
    assert found == before | {
        "tokens_total": 160,
        "fallback_tokens_total": 5,
        "rows_total": 3,
        "failed_rows_total": 1,
        "steps_total": 60,
        "engine_seconds_total": 12,
        "part_seconds_total.theta": 4,
        "max_rows_in_flight": 8,
        "tokens_per_second": 30,  # 60 in 2 s
        "batch_fill": 0.75,  # 60 in 10 steps: 6 of 8 rows
    }
    metrics.update(stats.as_dict())  # no step since
    assert scraped(metrics) == found


def test_every_total_that_is_served_is_one_of_the_sampler() -> None:
    assert {*COUNTERS, *PARTS} <= SamplingStats().as_dict().keys()


def test_a_port_that_is_taken_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        metrics = Metrics(port, "0123456789ab", max_num_seqs=8)
        metrics.update(SamplingStats(num_steps=1).as_dict())
    assert metrics.port is None
    assert f"127.0.0.1:{port} serves no metrics (Address already in use)" in caplog.text
