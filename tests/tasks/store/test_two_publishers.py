"""A model check of the publication to an object store: two runs of one dataset, each paused at any request.

Each process acquires the run's lease, publishes, tidies up and releases; time passes while the other one sleeps, so
that its lease is taken over. After every request of either, a dataset that has its manifest must be whole.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampling.errors import OutputError
from tasks.publish.publish import finish
from tasks.run.folder import RunFolder
from tasks.store.durable import write_json
from tasks.store.lease import LEASE_S, Lease
from tasks.store.manifest import MANIFEST, ListedFile
from tests.tasks.store.memory import Clock, MemoryS3

NEVER_S = 600.0  # of real time: the lease's thread sleeps on; `check` renews it
PREFIX = "p/d/v1"


class Process:
    """One run, which waits before each of its requests until it is stepped."""

    def __init__(self, s3: MemoryS3, local: Path, files: dict[str, bytes]) -> None:
        self.error: OutputError | None = None
        self.ended = False
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        mirror = s3.mirror("s3://bucket/p", local, patience_s=0.0)
        mirror.store._request = self._pausing(mirror.store._request)  # type: ignore[method-assign]
        self.folder = RunFolder(local, "d", "v1", {}, mirror)
        self._files = files
        self._lease = Lease(mirror, self.folder.work.with_name("v1.lease"), beat_s=NEVER_S)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._paused.acquire()

    def step(self) -> None:
        """Let one request happen, and what follows it up to the next one."""
        if not self.ended:
            self._go.release()
            self._paused.acquire()

    def run(self) -> None:
        while not self.ended:
            self.step()

    def _pausing(self, request: Callable[..., Any]) -> Callable[..., Any]:
        def paused(*args: Any, **options: Any) -> Any:
            self._paused.release()
            self._go.acquire()
            return request(*args, **options)

        return paused

    def _run(self) -> None:
        try:
            while not self._lease.try_acquire():
                pass
            if self.folder.find_published() is None:
                self._stage()
                self.folder.upload_dataset(self.folder.published, self._lease.check)
            self.folder.tidy(self._lease.check)
            finish(self.folder, self._lease.check)
        except OutputError as error:
            self.error = error
        finally:
            self._lease.release()
            self.ended = True
            self._paused.release()

    def _stage(self) -> None:
        root = self.folder.published
        for name, data in self._files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        self.folder.work.mkdir(parents=True, exist_ok=True)
        listed = [ListedFile.of(root, root / name) for name in self._files]
        entries = [{"path": file.path, "num_bytes": file.num_bytes, "sha256": file.sha256} for file in listed]
        manifest = {"run_id": self.folder.run_id, "identity": {}, "files": entries[:1], "documents": entries[1:]}
        write_json(root / MANIFEST, manifest)


class World:
    """A store, a clock, and two processes A and B; B's Parquet is of another library's version."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.s3, self._clock = MemoryS3(), clock
        self._manifest: bytes | None = None
        documents = {name: {"README.md": name, "report.html": name * 2, "facts.json": "same"} for name in "ABC"}
        self._files = {
            name: {"data/train-0.parquet": b"rows" + name.encode() * (name != "C")}
            | {path: text.encode() for path, text in texts.items()}
            for name, texts in documents.items()
        }
        self._root = root
        self.processes = {name: self.start(name) for name in "AB"}

    def start(self, name: str) -> Process:
        return Process(self.s3, self._root / name, self._files[name])

    def play(self, schedule: Sequence[str]) -> None:
        """A, B: a step of that process; t: more time than a lease lasts."""
        for action in schedule:
            if action == "t":
                self._clock.now += LEASE_S + 1.0
            else:
                self.processes[action].step()
                self.check()

    def finish(self) -> None:
        """Let both processes end, then a third one; the dataset is published and nothing of the others is left."""
        for process in (*self.processes.values(), third := self.start("C")):
            while not process.ended:
                self._clock.now += LEASE_S + 1.0
                process.step()
                self.check()
        assert third.error is None
        assert self._manifest is not None
        names = {key.removeprefix(f"{PREFIX}/") for key in self.s3.objects if key.startswith(PREFIX)}
        assert names == {MANIFEST, "README.md", "report.html"} | self.listed().keys()

    def check(self) -> None:
        """Once published, always whole, and never another dataset."""
        objects = {key.removeprefix(f"{PREFIX}/"): data for key, (data, _) in self.s3.objects.items()}
        if self._manifest is None:
            self._manifest = objects.get(MANIFEST)
        if self._manifest is None:
            assert "p/d/latest" not in objects
            return
        assert objects.get(MANIFEST) == self._manifest
        listed = self.listed()
        for name, file in listed.items():
            assert sha256(objects[name]).hexdigest() == file.sha256
            if file.path in objects:
                assert objects[file.path] == objects[name]

    def listed(self) -> dict[str, ListedFile]:
        assert self._manifest is not None
        manifest = json.loads(self._manifest)
        files = [ListedFile(**entry) for entry in manifest["files"] + manifest["documents"]]
        return {file.object_name: file for file in files}


@pytest.fixture
def worlds(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[[], World]:
    """Create worlds of one clock."""
    monkeypatch.setattr("tasks.store.mirror.NUM_THREADS", 1)  # requests in one order
    numbers = count()
    return lambda: World(tmp_path / str(next(numbers)), clock)


def num_steps(world: World) -> int:
    """How many requests a run makes that nothing disturbs."""
    process = world.processes["A"]
    steps = 0
    while not process.ended:
        process.step()
        steps += 1
    world.finish()
    return steps


def test_undisturbed(worlds: Callable[[], World]) -> None:
    world = worlds()
    world.processes["A"].run()
    assert world.processes["A"].error is None
    world.finish()
    assert world.processes["B"].error is None  # it finds the dataset published


@pytest.mark.slow
def test_every_pair_of_pauses(worlds: Callable[[], World]) -> None:
    """A sleeps before its i-th request, B takes over and sleeps before its j-th, A goes on to its end, then B."""
    num = num_steps(worlds())
    assert 25 < num < 80
    taken_over = 0
    for i in range(num):
        for j in range(num + 4):  # B observes A's lease twice
            world = worlds()
            world.play("A" * i + "B" * 2 + "t" + "B" * j + "A" * (num + 4))
            world.finish()
            taken_over += "taken over" in str(world.processes["A"].error)
    assert taken_over > num  # the schedules do disturb it


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example makes a world of its own
@given(schedule=st.lists(st.sampled_from("AAAABBBBt"), max_size=150))
def test_any_schedule(worlds: Callable[[], World], schedule: list[str]) -> None:
    world = worlds()
    world.play(schedule)
    world.finish()
