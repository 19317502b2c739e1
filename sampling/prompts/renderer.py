"""A child process that renders prompts within bounds: templates, chat templates most of all, come from strangers.

There is one for each process, started for its first template, replaced when it dies. Memory is limited in it by the
kernel, CPU time by a timer that interrupts Python, and by the kernel where one call into C cannot be interrupted.
"""

from __future__ import annotations

import atexit
import math
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
from typing import Any, TypeVar

from sampling.errors import EngineError, RowError, TemplateError
from sampling.processes.child import Child
from sampling.prompts.rendering import Names, Recipe, Rendered, RenderError, Rendering, RenderLimitError, Row, one_line

READY = "ready"
BATCH_ROWS, BATCH_BYTES = 256, 1 << 20  # sent at a time
START_TIME_S = 120.0  # its imports take 0.9 s of CPU
WALL_TIME_S = 30.0  # a row on a busy machine, beyond its own bound: the kernel ends it by CPU time
END_TIME_S = 10.0  # from SIGKILL
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
            return self._request(recipe, [])

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
                done = self._batch(recipe, batch)
                results += done
                num_suspects = num_suspects - 1 if num_suspects else len(batch) - len(done)
                if not done and len(batch) == 1:
                    results.append(RenderLimitError(_too_far(recipe)))
                    num_suspects = 0
        return results

    def _batch(self, recipe: Recipe, rows: list[bytes]) -> list[Result]:
        """Return the results of the rows: of all, or of some before the one that ended the process."""
        self._request(recipe, rows)
        results: list[Result] = []
        with suppress(EOFError):
            while len(results) < len(rows):
                results += self._receive(recipe)
        return results

    def _request(self, recipe: Recipe, rows: list[bytes]) -> Names:
        """Send a recipe with its rows. Raises TemplateError."""
        try:
            self._start_if_needed().connection.send((recipe, rows))
        except OSError:  # it died since, as processes do on a full machine
            self.stop()
            self._start_if_needed().connection.send((recipe, rows))
        try:
            reply = self._receive(recipe)
        except EOFError:
            raise TemplateError(_too_far(recipe)) from None
        if isinstance(reply, Names):
            return reply
        raise TemplateError(str(reply))

    def _receive(self, recipe: Recipe) -> Any:
        """Return the next reply. Raises EOFError where the process died, or hangs, which ends it."""
        assert self._child is not None
        with suppress(OSError, EOFError):
            if self._poll.poll(1000 * (WALL_TIME_S + recipe.render_s)):
                reply = self._child.connection.recv()
                if isinstance(reply, Names | TemplateError | list):
                    return reply
        self.stop()
        raise EOFError

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


def serve(connection: Connection) -> None:
    """Answer requests in the child: to a recipe and its rows, Names, then a result for each row."""
    import transformers.utils.chat_template_utils  # noqa: F401  before memory is limited

    def interrupt(signum: int, frame: object) -> None:
        raise _TimeUp

    signal.signal(signal.SIGPROF, interrupt)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    base_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    connection.send(READY)
    while True:
        recipe, rows = connection.recv()
        resource.setrlimit(resource.RLIMIT_AS, (base_bytes + recipe.render_bytes, resource.RLIM_INFINITY))
        try:
            rendering = _rendering(recipe)
        except (TemplateError, RowError) as error:
            connection.send(TemplateError(str(error)))
            continue
        except Exception as error:  # RecursionError of a deep one, …
            connection.send(
                TemplateError(f"{recipe.name} cannot be compiled: {type(error).__name__}: {one_line(error)}")
            )
            continue
        connection.send(rendering.names)
        results: list[Result] = []
        num_chars, sent_at = 0, time.monotonic()
        for row in rows:
            results.append(result := _result(rendering, row))
            num_chars += len(result.text) if isinstance(result, Rendered) else 0
            if num_chars > FLUSH_CHARS or time.monotonic() - sent_at > FLUSH_S:
                connection.send(results)
                results, num_chars, sent_at = [], 0, time.monotonic()
        if results:
            connection.send(results)


@lru_cache(64)
def _rendering(recipe: Recipe) -> Rendering:
    return _bounded(recipe, lambda: Rendering(recipe))


def _result(rendering: Rendering, row: bytes) -> Result:
    try:
        return _bounded(rendering.recipe, lambda: rendering.render(pickle.loads(row)))
    except RowError as error:
        return type(error)(str(error))  # without the frames that hold what it was raised over
    except Exception as error:  # of a field's own class
        return RenderError(f"{rendering.recipe.name} cannot be rendered: {type(error).__name__}: {one_line(error)}")


def _bounded(recipe: Recipe, work: Callable[[], T]) -> T:
    """Return what `work` returns. Raises RenderLimitError where it takes too much CPU time or memory."""
    most_s = math.ceil(time.process_time() + recipe.render_s) + GRACE_S
    resource.setrlimit(resource.RLIMIT_CPU, (most_s, resource.RLIM_INFINITY))
    try:
        signal.setitimer(signal.ITIMER_PROF, recipe.render_s, AGAIN_S)
        try:
            return work()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except _TimeUp:
        signal.setitimer(signal.ITIMER_PROF, 0)  # it came before the other was reached
        raise RenderLimitError(_too_far(recipe, is_memory=False)) from None
    except MemoryError:
        raise RenderLimitError(_too_far(recipe, is_time=False)) from None
