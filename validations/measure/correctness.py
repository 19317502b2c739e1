"""Grader of final answers by math-verify, in child processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from multiprocessing.connection import Connection
from threading import Event, Lock
from types import TracebackType

from sampling.processes.child import Child
from sampling.processes.limits import limit
from validations.measure.answers import MAX_ANSWER_CHARS, final_answer
from validations.text.literals import same_text
from validations.text.mathematics import Comparison
from validations.text.notation import plain, quantity

MAX_JUDGED = 20_000  # rows of a dataset; every k-th row of a larger one: the rate's standard error is 0.35 % at worst
MAX_WORKERS = 4
CPU_TIME_S = 4  # a row; the slowest of ordinary LaTeX takes 0.2 s
WALL_TIME_S = 20.0  # a row, on a busy machine
END_TIME_S = 10.0  # from SIGKILL
START_TIME_S = 120.0  # a worker's imports take 1.5 s of CPU
MEMORY_BYTES = 1 << 30  # a worker's address space; it takes 90 MB after its imports
MAX_TIME_S = 300.0  # of a Grader; pairs after that are not judged

Pair = tuple[str, str]  # of a completion and the reference answer
Given = tuple[str, bool, str]  # a final answer, whether it is marked, the reference answer
NUMBER = re.compile(r"[-+]?\d{1,18}(?:\.\d{1,18})?")
READY = "ready"


class Grader:
    """Pool of processes that compare final answers: a completion can make sympy hang or exhaust the memory.

    A row that takes over 4 s of CPU kills its process, which is replaced; one that asks for over 1 GB is wrong, or
    kills it too. The processes start with the first answer that needs them and end with the context. They are plain
    children that import this file, so that the caller may be a thread, or a script without a `__main__` guard.
    """

    def __init__(self, num_workers: int | None = None, max_time_s: float = MAX_TIME_S) -> None:
        num_workers = num_workers or min(MAX_WORKERS, os.cpu_count() or 1)
        self._workers = [_Worker() for _ in range(num_workers)]
        # By the pair's hash: the texts of 20,000 rows take 80 MB, and two hashes collide with a chance of 1e-11.
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
        """Return right, wrong, or None (not judged in time), for pairs of a completion and the reference answer.

        Only the completion's last 4,000 characters are read. Results are cached; one call at a time. Raises
        RuntimeError when a worker process does not start.
        """
        begin = time.monotonic()
        given = [_given(*pair) for pair in pairs]
        harder: list[Given] = []
        for each in dict.fromkeys(given):
            if time.monotonic() - begin > self._time_left_s:
                break
            if hash(each) not in self._known:
                grade = _compared(*each)
                if grade is None:
                    harder.append(each)
                else:
                    self._known[hash(each)] = grade
        self._time_left_s -= time.monotonic() - begin
        if harder:
            self._verify(harder)
        return [self._known.get(hash(each)) for each in given]

    def _verify(self, pairs: list[Given]) -> None:
        """Fill `_known`; each worker takes the next pair as soon as it is idle."""
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
                except BaseException:  # Ctrl-C too: each thread ends after its current row, which is killed
                    stopped.set()
                    for worker in workers:
                        worker.kill()
                    raise
        finally:
            self._time_left_s -= time.monotonic() - begin


class _Worker:
    """Process that judges one pair at a time; started for the first pair, replaced when it dies."""

    def __init__(self) -> None:
        self._child: Child | None = None

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The process, None while there is none."""
        return None if self._child is None else self._child.process

    def judge(self, pair: Given) -> bool | None:
        """Return None when the process had to be killed, or died."""
        child = self._child or self._start()
        with suppress(OSError, EOFError):
            child.connection.send(pair)
            if child.connection.poll(WALL_TIME_S) and isinstance(grade := child.connection.recv(), bool):
                return grade
        self.stop()
        return None

    def kill(self) -> None:
        """Kill the process during its current row, from any thread."""
        if (process := self.process) is not None:
            process.kill()

    def stop(self) -> None:
        """End the process."""
        if self._child is not None:
            child, self._child = self._child, None
            child.kill(END_TIME_S)

    def _start(self) -> Child:
        child = self._child = Child(f"{__name__}:serve", subprocess.DEVNULL)
        reply = None
        with suppress(OSError, EOFError):
            reply = child.connection.recv() if child.connection.poll(START_TIME_S) else None
        if reply != READY:
            code = child.process.poll()
            self.stop()
            raise RuntimeError(
                f"the process that compares final answers did not start within {START_TIME_S:.0f} s "
                f"(exit status {code}); see what `{sys.executable} -c 'import math_verify'` says"
            )
        return child


def _given(completion: str, answer: str) -> Given:
    given, is_marked = final_answer(completion)
    return given[:MAX_ANSWER_CHARS], is_marked, answer.strip()


def _compared(given: str, is_marked: bool, answer: str) -> bool | None:
    """Return whether a final answer is right as far as its text or plain number tells, else None."""
    if len(answer) > MAX_ANSWER_CHARS:
        return False
    wanted = quantity(answer)
    if wanted is None:
        return same_text(given, answer, is_marked=is_marked)
    if plain(given) == plain(answer):
        return True
    found = quantity(given)
    numbers = [each.formula for each in (wanted, found) if each and not each.unit and NUMBER.fullmatch(each.formula)]
    return Decimal(numbers[0]) == Decimal(numbers[1]) if len(numbers) == 2 else None


def serve(connection: Connection) -> None:
    """Judge pairs in the child, which limits its own memory and CPU time; send a bool for each."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    comparison = Comparison()
    connection.send(READY)
    while True:
        given = connection.recv()
        # The kernel ends this process at its soft limit, even if the parent is gone.
        limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + CPU_TIME_S)
        try:
            is_right = comparison.is_right(*given)
        except Exception:
            is_right = False
        connection.send(is_right)
