"""The progress of a run: what it counts, what it expects, how it looks in a log."""

from __future__ import annotations

import pytest

from flows.progress import RunProgress
from tasks.engine_process import Progress


def test_speed_with_time_left_is_of_this_run_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress(100, num_quarantined=3) as progress:
        assert progress.status() == "loading the engine, 3 quarantined"
        progress(0, Progress(num_done=40, num_failed=1))  # complete since an earlier run
        progress(1, Progress(num_done=10, num_failed=0))  # begun by an earlier run
        assert progress.status() == "loading the engine, 4 quarantined"
        progress(1, Progress(num_done=15, num_failed=0, num_tokens=500, sampling_s=1.0))
        progress(1, Progress(num_done=20, num_failed=2, num_tokens=1000, sampling_s=2.0))
        assert progress.num_done == 60
        # 10 completions in 2 s, 40 to go.
        assert progress.status() == "500 tok/s, 0:00:08 left, 6 quarantined"
        progress(1, Progress(num_done=20, num_failed=2))  # the engine died: a new attempt counts from 0
        progress(1, Progress(num_done=22, num_failed=2, num_tokens=200, sampling_s=2.0))
        assert progress.status() == "300 tok/s, 0:00:13 left, 6 quarantined"  # 12 in 4 s, 38 to go: 12.7 s
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "sampled 40 of 100, loading the engine, 4 quarantined"
    assert last == "sampled 62 of 100, 300 tok/s, 0:00:13 left, 6 quarantined"


def test_a_run_that_has_nothing_left_to_sample(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress(4, 0) as progress:
        progress(0, Progress(4, 0))
    assert capsys.readouterr().err.splitlines()[-1] == "sampled 4 of 4"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with RunProgress(4, 0) as progress:
        progress(0, Progress(1, 0))
        progress(0, Progress(2, 0, num_tokens=100, sampling_s=1.0))
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/4" in err
    assert "100 tok/s, 0:00:02 left" in err
