"""A run that samples another run's shards: what it must share with that one."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.sample_shards import _sample_shards
from sampling.errors import OutputError
from tasks.run.folder import RunFolder
from tests.tasks.runs import make_config


def test_another_engine_than_the_runs_is_refused_before_it_loads(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder = RunFolder.of(config, {"engine": {"device": "cuda", "vllm": "0.1.0", "torch": "2.13.0"}})
    folder.work.mkdir(parents=True)
    folder.write_run(config, {})
    with pytest.raises(OutputError, match=r"was begun on \{'device': 'cuda', 'vllm': '0\.1\.0'"):
        _sample_shards(str(folder.work))
