"""Fixtures of the store's tests: a real S3 server, and mirrors on it or on an in-memory S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.store.mirror import Mirror
from tests.tasks.store.memory import Clock, MemoryS3
from tests.tasks.store.s3 import BUCKET, S3Server, s3_server


@pytest.fixture(scope="session")
def server() -> Iterator[S3Server]:
    with s3_server() as started:
        yield started


@pytest.fixture
def s3() -> MemoryS3:
    return MemoryS3()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of leases and retries."""
    clock = Clock()
    monkeypatch.setattr("tasks.store.lease.time", clock)
    monkeypatch.setattr("tasks.store.object_store.time", clock)
    return clock


@pytest.fixture
def root(tmp_path: Path) -> str:
    return f"s3://{BUCKET}/{tmp_path.name}/prefix"


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.slow)])
def make_mirror(request: pytest.FixtureRequest, root: str, s3: MemoryS3) -> Callable[[Path], Mirror]:
    """Create mirrors of one prefix: in memory, and on the real server."""

    def make(local: Path) -> Mirror:
        local.mkdir(exist_ok=True)
        if request.param == "memory":
            return s3.mirror(root, local)
        return Mirror(root, local, request.getfixturevalue("server").options)

    return make


@pytest.fixture
def here(make_mirror: Callable[[Path], Mirror], tmp_path: Path) -> Mirror:
    return make_mirror(tmp_path / "here")


@pytest.fixture
def there(make_mirror: Callable[[Path], Mirror], tmp_path: Path) -> Mirror:
    return make_mirror(tmp_path / "there")
