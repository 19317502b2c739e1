"""Whether a completion's final answer is the source's."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import Any

from validations.measure.answers import MAX_ANSWER_CHARS, final_answer, formula, is_mathematics, same_text, tail

MAX_JUDGED = 20_000  # of a dataset; of a larger one every k-th row: the rate's standard error is 0.35 % at worst
MAX_WORKERS = 4
CPU_TIME_S = 4  # a row; the slowest of ordinary LaTeX takes 0.2 s
WALL_TIME_S = 20.0  # a row, on a machine that is busy with other things
START_TIME_S = 120.0  # a worker's imports take 1.5 s of CPU
MEMORY_BYTES = 1 << 30  # a worker's address space; it takes 90 MB after its imports
MAX_TIME_S = 300.0  # of a Grader; what is asked for later is not judged

Pair = tuple[str, str]
READY, RIGHT, WRONG = b"ready\n", b"right\n", b"wrong\n"
# A child finds this package where its parent did, in a folder that may be on the parent's path alone. On the child's
# path it keeps its place: what is installed beside this package is not to come before the standard library.
CHILD = """import sys
if sys.argv[1] not in sys.path:
    sys.path.insert(0, sys.argv[1])
from validations.measure.correctness import _run
_run()"""


class Grader:
    """Judges final answers by math-verify, in processes of its own: a completion can hang sympy or blow it up.

    A row that takes over 4 s of CPU costs its process, which is replaced; one that asks for over 1 GB is wrong, or
    costs it too. The processes start with the first answer that needs them and end with the context. They are plain
    children that import this file, so that a caller may be a thread, or a script without a `__main__` guard.
    """

    def __init__(self, num_workers: int | None = None, max_time_s: float = MAX_TIME_S) -> None:
        num_workers = num_workers or min(MAX_WORKERS, os.cpu_count() or 1)
        self._workers = [_Worker() for _ in range(num_workers)]
        # By the pair's hash: the texts of 20,000 rows take 80 MB, and two share a hash with a chance of 1e-11.
        self._known: dict[int, bool | None] = {}
        self._time_left_s = max_time_s

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.stop()

    def grade(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """Right, wrong, or None (could not be judged in time), for pairs of a completion with the final answer.

        Only the completion's last 4,000 characters are looked at. Results are kept; one call at a time. Raises
        RuntimeError when a worker process does not start.
        """
        asked = [(tail(completion), answer.strip()) for completion, answer in pairs]
        harder: list[Pair] = []
        for pair in dict.fromkeys(asked):
            if hash(pair) not in self._known:
                if same_text(*pair):
                    self._known[hash(pair)] = True
                elif not is_mathematics(pair[1]):
                    self._known[hash(pair)] = False
                else:
                    harder.append(pair)
        if harder:
            self._ask(harder)
        return [self._known.get(hash(pair)) for pair in asked]

    def _ask(self, pairs: list[Pair]) -> None:
        """Fill `_known`, each worker with the next pair as soon as it is done with one."""
        begin = time.monotonic()
        waiting, lock, stopped = iter(pairs), Lock(), Event()

        def work(worker: _Worker) -> None:
            while not stopped.is_set() and time.monotonic() - begin < self._time_left_s:
                with lock:
                    pair = next(waiting, None)
                if pair is None:
                    return
                self._known[hash(pair)] = worker.judge(pair)

        workers = self._workers[: len(pairs)]
        try:
            with ThreadPoolExecutor(len(workers)) as pool:
                try:
                    for done in [pool.submit(work, worker) for worker in workers]:
                        done.result()
                except BaseException:  # Ctrl-C too: the threads end with the rows they are at, and these at once
                    stopped.set()
                    for worker in workers:
                        worker.kill()
                    raise
        finally:
            self._time_left_s -= time.monotonic() - begin


class _Worker:
    """A process that judges one pair at a time; started by the first, replaced when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def judge(self, pair: Pair) -> bool | None:
        """None when the process had to be killed, or died."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(pair).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            said = b""
        else:
            said = _read_line(process, WALL_TIME_S)
        if said not in (RIGHT, WRONG):
            self.stop()
            return None
        return said == RIGHT

    def kill(self) -> None:
        """End the row at hand, from any thread."""
        if (process := self._process) is not None:
            process.kill()

    def stop(self) -> None:
        """End the process."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(OSError):  # what was not written to the dead process
                stream.close()
        process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: the folder that the caller happens to work in does not come first on the path. A session of its own:
        # Ctrl-C is the parent's to handle.
        command = [sys.executable, "-P", "-c", CHILD, str(Path(__file__).absolute().parents[2])]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        if _read_line(self._process, START_TIME_S) != READY:
            code = self._process.poll()
            self.stop()
            raise RuntimeError(
                f"the process that compares final answers did not start within {START_TIME_S:.0f} s "
                f"(exit status {code}); see what `{sys.executable} -c 'import math_verify'` says"
            )
        return self._process


def _read_line(process: subprocess.Popen[bytes], time_s: float) -> bytes:
    """What the process says within that time, else nothing."""
    assert process.stdout is not None
    poll = select.poll()  # `select.select` takes no descriptor past 1,023
    poll.register(process.stdout, select.POLLIN)
    # A line of 6 bytes is written at once, and one is asked for at a time.
    return os.read(process.stdout.fileno(), 64) if poll.poll(time_s * 1000) else b""


def _judge(completion: str, answer: str, parsed: Callable[[str], list[Any]]) -> bool:
    """By math-verify. What is marked as the answer counts alone, unless nothing can be read there."""
    from math_verify import verify

    gold = parsed(f"\\boxed{{{formula(answer)}}}")

    def holds(text: str) -> bool:
        return bool(verify(gold, parsed(text), timeout_seconds=None))

    completion = completion.replace("\\$", "")  # dollars: a lone one would begin a formula
    said, line = final_answer(completion)
    if line is None:  # math-verify would rather take the number next to any word `answer`
        return holds(said) or holds(completion)
    # A formula outside $…$ is read in a box only, a number before words outside of one only.
    if holds(f"\\boxed{{{said[:MAX_ANSWER_CHARS]}}}") or holds(line):
        return True
    return not parsed(line) and holds(completion)


def _serve(requests: Iterator[bytes], answer: Callable[[bytes], None]) -> None:
    """The child: pairs as lines of JSON in, a word a pair out. It is silent, and limits itself."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    reading = [LatexExtractionConfig(), ExprExtractionConfig()]

    @lru_cache(64)
    def parsed(text: str) -> list[Any]:
        return list(parse(text, reading, parsing_timeout=None))

    answer(READY)
    for line in requests:
        # The kernel ends this process at its soft limit, also when nobody waits for it any more.
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + CPU_TIME_S, resource.RLIM_INFINITY))
        completion, final = json.loads(line)
        try:
            is_right = _judge(completion, final, parsed)
        except Exception:
            is_right = False
        answer(RIGHT if is_right else WRONG)


def _run() -> None:
    """The child's `main`. Parsers print: what they print goes nowhere, and the answers to a descriptor of our own."""
    answers = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    _serve(iter(sys.stdin.buffer.readline, b""), lambda word: (os.write(answers, word), None)[1])
