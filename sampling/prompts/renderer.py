"""A child process that renders prompts within bounds: templates, chat templates most of all, come from strangers.

There is one for each process, started for its first template. It forks a worker, and another one where that went beyond
the bounds: what was cut short anywhere is not used again. Memory is limited in the worker by the kernel, CPU time by a
timer that interrupts Python, and by the kernel where one call into C cannot be interrupted.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from sampling.errors import EngineError, RowError, TemplateError
from sampling.processes.child import Child
from sampling.processes.limits import limit
from sampling.prompts.rendering import Names, Recipe, Rendered, RenderError, Rendering, RenderLimitError, Row, one_line

READY, DONE, CUT, DIED = "ready", "done", "cut", "died"  # the last of the replies to a request: how it ended
BATCH_ROWS, BATCH_BYTES = 256, 1 << 20  # sent at a time
START_TIME_S = 120.0  # its imports take 0.9 s of CPU
WALL_TIME_S = 30.0  # a row on a busy machine, beyond its own bound: the kernel ends it by CPU time
END_TIME_S = 10.0  # from SIGKILL
PR_SET_PDEATHSIG = 1  # of Linux's prctl
AGAIN_S = 0.1  # of CPU time, after which rendering that went on is interrupted once more
FLUSH_S, FLUSH_CHARS = 0.1, 1 << 20  # results are sent when they are as old, or as long
GRACE_S = 1  # of CPU time, after which the kernel ends what cannot be interrupted

T = TypeVar("T")
Result = Rendered | RowError


class Renderer:
    """The process, seen from its parent: one request at a time."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._poll = select.poll()
        self._lock = threading.Lock()
        atexit.register(self.stop)

    def names(self, recipe: Recipe) -> Names:
        """Return what the templates read. Raises TemplateError where they cannot be compiled within the bounds."""
        with self._lock:
            return self._request(recipe, [])[0]

    def render(self, recipe: Recipe, rows: Sequence[Row]) -> list[Result]:
        """Return each row's prompt, or its error."""
        waiting = [_pickled(recipe, row) for row in rows]
        results: list[Result] = []
        num_suspects = 0  # rows, one of which ended the process: sent one by one
        with self._lock:
            while len(results) < len(waiting):
                if isinstance(first := waiting[len(results)], RowError):
                    results.append(first)
                    continue
                batch = [first] if num_suspects else list(_first_batch(waiting[len(results) :]))
                _, done, died = self._request(recipe, batch)
                results += done
                num_suspects = len(batch) - len(done) if died and len(batch) > 1 else max(0, num_suspects - 1)
                if died and len(batch) == 1:
                    results.append(RenderLimitError(_too_far(recipe)))
                    num_suspects = 0
        return results

    def _request(self, recipe: Recipe, rows: list[bytes]) -> tuple[Names, list[Result], bool]:
        """Return the templates' names, the results of the first rows, and whether another one ended the worker.

        There are results of all rows, or up to one that was cut short, or some before the one that ended the worker.
        Raises TemplateError, and EngineError where the process ends, or does not answer, twice.
        """
        for _ in range(2):
            try:
                return self._exchange(recipe, rows)
            except (OSError, EOFError, pickle.UnpicklingError):  # as happens on a full machine
                self.stop()
        raise EngineError(
            f"the process that renders prompts ended twice, or did not answer within {WALL_TIME_S:.0f} s; look at the "
            "machine's memory, then run the same command"
        )

    def _exchange(self, recipe: Recipe, rows: list[bytes]) -> tuple[Names, list[Result], bool]:
        connection = self._start_if_needed().connection
        connection.send((recipe, rows))
        names: Names | TemplateError = TemplateError(_too_far(recipe))
        results: list[Result] = []
        while True:
            if not self._poll.poll(1000 * (WALL_TIME_S + recipe.render_s)):
                raise EOFError
            if (reply := connection.recv()) in (DONE, CUT, DIED):
                break
            if isinstance(reply, list):
                results += reply
            else:
                names = reply
        if isinstance(names, TemplateError):
            raise names
        return names, results, reply == DIED

    def _start_if_needed(self) -> Child:
        """Return the process. Raises EngineError where it does not start."""
        if self._child is not None:
            return self._child
        child = self._child = Child(f"{__name__}:serve", subprocess.DEVNULL)
        self._poll = select.poll()
        self._poll.register(child.connection.fileno(), select.POLLIN)
        with suppress(OSError, EOFError):
            if self._poll.poll(1000 * START_TIME_S) and child.connection.recv() == READY:
                return child
        code = child.process.poll()
        self.stop()
        raise EngineError(
            f"the process that renders prompts did not start within {START_TIME_S:.0f} s (exit status {code}); see what"
            f" `{sys.executable} -c 'import transformers.utils.chat_template_utils'` says"
        )

    def stop(self) -> None:
        """End the process; the next request starts another."""
        if self._child is not None:
            child, self._child = self._child, None
            child.kill(END_TIME_S)


RENDERER = Renderer()


def _too_far(recipe: Recipe, is_time: bool = True, is_memory: bool = True) -> str:
    """Return what a message says of a recipe that goes beyond its bounds on time, on memory, or on one of the two."""
    templates = recipe.name + (" with the model's chat template" if recipe.chat else "")
    time_bound = f"longer to render than bounds.render_s ({recipe.render_s:g} s of CPU)" if is_time else ""
    memory_bound = f"more memory to render than bounds.render_bytes ({recipe.render_bytes})" if is_memory else ""
    return f"{templates} takes {' or '.join(filter(None, (time_bound, memory_bound)))}"


def _pickled(recipe: Recipe, row: Row) -> bytes | RowError:
    try:
        return pickle.dumps(row, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # of a field's own class, made by an adapter
        return RenderError(f"{recipe.name} names a field that cannot be sent to another process: {one_line(error)}")


def _first_batch(rows: Sequence[bytes | RowError]) -> Iterator[bytes]:
    num_bytes = 0
    for row in rows[:BATCH_ROWS]:
        if isinstance(row, RowError) or num_bytes > BATCH_BYTES:
            return
        yield row
        num_bytes += len(row)


class _TimeUp(BaseException):
    """Not an Exception, which a template's filters could catch."""


class _CutError(RenderLimitError):
    """Rendering that was cut short, anywhere, where it went beyond its time or memory."""


def serve(connection: Connection) -> None:
    """Answer requests by a worker at a time, forked when the imports are done."""
    import transformers.utils.chat_template_utils  # noqa: F401

    base_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send(READY)
    while True:
        if not (worker := os.fork()):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # one that hangs ends with this process
            with suppress(EOFError, OSError):  # the parent has ended
                _work(connection, base_bytes)
            os._exit(0)
        _, status = os.waitpid(worker, 0)
        connection.send(DIED if status else CUT)


def _work(connection: Connection, base_bytes: int) -> None:
    """Answer requests, until one is cut short: to a recipe and its rows Names, results, DONE."""

    def interrupt(signum: int, frame: object) -> None:
        raise _TimeUp

    signal.signal(signal.SIGPROF, interrupt)
    while True:
        recipe, rows = connection.recv()
        limit(resource.RLIMIT_AS, base_bytes + recipe.render_bytes)
        if not _answer(connection, recipe, rows):
            return
        connection.send(DONE)


def _answer(connection: Connection, recipe: Recipe, rows: list[bytes]) -> bool:
    """Send the replies to a request; return False where it was cut short."""
    try:
        rendering = _rendering(recipe)
    except Exception as error:  # RecursionError of a deep one, …
        is_ours = isinstance(error, TemplateError | RowError)
        what = str(error) if is_ours else f"{recipe.name} cannot be compiled: {type(error).__name__}: {one_line(error)}"
        connection.send(TemplateError(what))
        return not isinstance(error, _CutError)
    connection.send(rendering.names)
    results: list[Result] = []
    num_chars, sent_at = 0, time.monotonic()
    for row in rows:
        try:
            result = _result(rendering, row)
        except _CutError as error:
            connection.send([*results, RenderLimitError(str(error))])
            return False
        results.append(result)
        num_chars += len(result.text) if isinstance(result, Rendered) else 0
        if num_chars > FLUSH_CHARS or time.monotonic() - sent_at > FLUSH_S:
            connection.send(results)
            results, num_chars, sent_at = [], 0, time.monotonic()
    connection.send(results)
    return True


@lru_cache(64)
def _rendering(recipe: Recipe) -> Rendering:
    return _bounded(recipe, lambda: Rendering(recipe))


def _result(rendering: Rendering, row: bytes) -> Result:
    try:
        return _bounded(rendering.recipe, lambda: rendering.render(pickle.loads(row)))
    except _CutError:
        raise
    except RowError as error:
        return type(error)(str(error))  # without the frames that hold what it was raised over
    except Exception as error:  # of a field's own class
        return RenderError(f"{rendering.recipe.name} cannot be rendered: {type(error).__name__}: {one_line(error)}")


def _bounded(recipe: Recipe, work: Callable[[], T]) -> T:
    """Return what `work` returns. Raises _CutError where it takes too much CPU time or memory."""
    most_s = math.ceil(time.process_time() + recipe.render_s) + GRACE_S
    limit(resource.RLIMIT_CPU, most_s)
    try:
        signal.setitimer(signal.ITIMER_PROF, recipe.render_s, AGAIN_S)
        try:
            return work()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)
    except _TimeUp:
        signal.setitimer(signal.ITIMER_PROF, 0)  # it came before the other was reached
        raise _CutError(_too_far(recipe, is_memory=False)) from None
    except MemoryError:
        raise _CutError(_too_far(recipe, is_time=False)) from None
