"""What is said of a process that ended: how, and what its log says last."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from sampling.processes.exits import exit_error, log_end


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (0, "with exit code 0"),
        (3, "with exit code 3"),
        (-signal.SIGTERM, "by SIGTERM"),
        (128 + signal.SIGABRT, "by SIGABRT"),
        (-signal.SIGKILL, "by SIGKILL (often the kernel, out of memory)"),
        (128 + signal.SIGKILL, "by SIGKILL (often the kernel, out of memory)"),
        (255, "with exit code 255"),
    ],
)
def test_an_exit_code_is_told_from_a_signal(code: int, how: str, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("of an earlier one\n" * 20_000)
    start = log.stat().st_size
    with log.open("a") as file:
        file.write("\n".join(["one", "", "  two ", "three", "four"]))
    assert str(exit_error("it", code, log, start)) == f"it ended {how}; {log} ends: two | three | four"


def test_the_reason_is_found_above_the_last_lines() -> None:
    said = [
        "(APIServer pid=7) WARNING 11-21 12:41:48 [system_utils.py:255] errors like `OSError: [Errno 24] Too many`",
        "(EngineCore pid=9) ERROR 11-21 12:41:50 [core.py:1] ValueError: 1.0 GiB KV cache is needed",
        "(APIServer pid=7) Traceback (most recent call last):",
        '(APIServer pid=7)   File "a.py", line 1, in <module>',
        "(APIServer pid=7)     raise RuntimeError(",
        "(APIServer pid=7) RuntimeError: Engine core initialization failed. See root cause above.",
    ]
    assert log_end("\n".join(said)).startswith(f"{said[1]} | {said[3].strip()} | ")
