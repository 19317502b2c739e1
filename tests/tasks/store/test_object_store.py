"""Tests of the object store's client: conditional writes, retries, error messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampling.errors import OutputError
from tasks.store.mirror import Mirror
from tasks.store.object_store import Store, StoredObject
from tests.tasks.store.memory import Clock, MemoryS3, client_error
from tests.tasks.store.s3 import KEY, SECRET, S3Server, s3_server
from tests.tasks.store.wire import wire


@pytest.fixture
def store(make_mirror: Callable[[Path], Mirror], tmp_path: Path) -> Store:
    return make_mirror(tmp_path).store


@pytest.fixture
def memory(s3: MemoryS3, root: str, tmp_path: Path) -> Store:
    return s3.mirror(root, tmp_path).store


def test_a_condition_is_kept(store: Store) -> None:
    first = store.write_if("a", b"1", None)
    assert first is not None
    assert store.write_if("a", b"2", None) is None
    assert store.read("a") == StoredObject(b"1", first)
    second = store.write_if("a", b"2", first)
    assert second is not None
    assert store.write_if("a", b"3", first) is None
    assert not store.remove_if("a", first)
    assert store.read("a") == StoredObject(b"2", second)
    assert store.remove_if("a", second)
    assert not store.remove_if("a", second)
    assert store.write_if("a", b"4", second) is None
    assert (store.read("a"), store.size("a")) == (None, None)


def test_conditions_are_tried_out(store: Store) -> None:
    store.write("a", b"1")
    store.check_conditions("a", b"1")
    assert store.read("a") is not None


def test_an_object_that_is_gone_cannot_be_downloaded(store: Store, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is gone: was it removed meanwhile"):
        store.download("a", tmp_path / "a")


def test_a_listing_without_end_is_refused(memory: Store, s3: MemoryS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile store could fill the memory with names."""
    monkeypatch.setattr("tasks.store.object_store.MAX_LISTED", 100)

    def forever(_: str, ContinuationToken: str = "0", **__: Any) -> dict[str, Any]:
        number = int(ContinuationToken) + 1
        contents = [{"Key": f"{memory._prefix}d/{number}-{i}", "Size": 1} for i in range(20)]
        return {"Contents": contents, "IsTruncated": True, "NextContinuationToken": str(number)}

    monkeypatch.setattr(s3, "_list_objects_v2", forever)
    with pytest.raises(OutputError, match="lists over 100 objects"):
        memory.listing("d")


def test_a_store_with_another_patience_shares_the_connections(store: Store) -> None:
    other = store.with_patience(0.0)
    other.write("a", b"1")
    assert store.read("a") == other.read("a")
    assert other._fs is store._fs
    assert (store._patience_s, other._patience_s) == (60.0, 0.0)


@pytest.mark.parametrize("error", [client_error("SlowDown", 503), client_error("x", 429), TimeoutError()])
def test_a_transient_error_is_retried(
    memory: Store, s3: MemoryS3, clock: Clock, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(method: str, key: str) -> None:
        if clock.now < 3.0:
            raise error

    s3.before = fail
    assert memory.listing("") == {}
    assert clock.now == 3.5  # pauses of 0.5, 1, 2 s
    assert len(caplog.messages) == 1


def test_a_store_that_is_gone_is_an_error_after_the_patience(memory: Store, s3: MemoryS3, clock: Clock) -> None:
    def fail(method: str, key: str) -> None:
        raise ConnectionRefusedError

    s3.before = fail
    with pytest.raises(OutputError, match=r"/a: the store has not answered for 6\d s \(.*\); see whether it is up"):
        memory.write("a", b"1")


def test_a_final_error_is_raised_at_once_with_the_next_step(memory: Store, s3: MemoryS3, clock: Clock) -> None:
    def fail(error: BaseException) -> Callable[[str, str], None]:
        def before(method: str, key: str) -> None:
            raise error

        return before

    for code, status, next_step in [
        ("AccessDenied", 403, r"set AWS_ACCESS_KEY_ID .*list, read, write"),
        ("ExpiredToken", 400, r"the session's credentials have expired"),
        ("AuthorizationHeaderMalformed", 400, r"correct the URL, AWS_ENDPOINT_URL or AWS_DEFAULT"),
    ]:
        s3.before = fail(client_error(code, status))
        with pytest.raises(OutputError, match=rf"s3://.*/a: what S3 says; {next_step}"):
            memory.size("a")
    assert clock.now == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "num_errors"), [(b"503 Slow Down", b"SlowDown", 5), (b"403 Forbidden", b"AccessDenied", 1000)]
)
def test_error_responses_of_a_server(server: S3Server, root: str, status: bytes, code: bytes, num_errors: int) -> None:
    body = b"<Error><Code>%s</Code><Message>what S3 says</Message></Error>" % code
    error = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
    left = num_errors

    def fail(data: bytes) -> bytes:
        nonlocal left
        if left == 0 or not data.startswith(b"HTTP/1.1 200"):
            return data
        left -= 1
        return error

    with wire(server.port, on_answer=fail) as url:
        store = Store(root, server.options | {"endpoint_url": url})
        if num_errors == 5:
            assert store.listing("") == {}
        else:
            with pytest.raises(
                OutputError, match=r"s3://.*/a: what S3 says; set AWS_ACCESS_KEY_ID .*list, read, write"
            ):
                store.size("a")


@pytest.mark.slow
def test_wrong_credentials_are_an_error_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "0")  # makes moto check them
    with s3_server() as strict:
        store = Store(strict.root, strict.options)
        with pytest.raises(OutputError, match=r"Access Key Id.* set AWS_ACCESS_KEY_ID") as refused:
            store.write("a", b"1")
    for text in (str(refused.value), str(refused.value.__cause__)):
        assert KEY not in text
        assert SECRET not in text
