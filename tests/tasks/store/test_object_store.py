"""What a real S3 server refuses, and what it says when it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sampling.errors import OutputError
from tasks.store.object_store import Store, Stored
from tests.tasks.store.s3 import KEY, SECRET, S3Server, s3_server
from tests.tasks.store.wire import wire


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as started:
        yield started


@pytest.fixture
def store(server: S3Server, tmp_path: Path) -> Store:
    return Store(f"{server.root}/{tmp_path.name}", server.options)


def test_a_condition_is_kept(store: Store) -> None:
    first = store.write_if("a", b"1", None)
    assert first is not None
    assert store.write_if("a", b"2", None) is None
    assert store.read("a") == Stored(b"1", first)
    second = store.write_if("a", b"2", first)
    assert second is not None
    assert store.write_if("a", b"3", first) is None
    assert not store.remove_if("a", first)
    assert store.read("a") == Stored(b"2", second)
    assert store.remove_if("a", second)
    assert not store.remove_if("a", second)
    assert store.write_if("a", b"4", second) is None
    assert (store.read("a"), store.size("a")) == (None, None)


def test_conditions_are_tried_out(store: Store) -> None:
    store.write("a", b"1")
    store.check_conditions("a", b"1")
    assert store.read("a") is not None


def answers(status: bytes, code: bytes, num: int, server: S3Server, store: Store) -> Iterator[Store]:
    """The store whose first answers are this error."""
    body = b"<Error><Code>%s</Code><Message>what S3 says</Message></Error>" % code
    error = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
    left = num

    def fail(data: bytes) -> bytes:
        nonlocal left
        if left == 0 or not data.startswith(b"HTTP/1.1 200"):
            return data
        left -= 1
        return error

    with wire(server.port, on_answer=fail) as url:
        yield Store(store.url, server.options | {"endpoint_url": url})


@pytest.fixture
def overloaded(server: S3Server, store: Store) -> Iterator[Store]:
    yield from answers(b"503 Slow Down", b"SlowDown", 5, server, store)


@pytest.fixture
def closed(server: S3Server, store: Store) -> Iterator[Store]:
    yield from answers(b"403 Forbidden", b"AccessDenied", 1000, server, store)


@pytest.fixture
def elsewhere(server: S3Server, store: Store) -> Iterator[Store]:
    yield from answers(b"400 Bad Request", b"AuthorizationHeaderMalformed", 1000, server, store)


def test_an_overloaded_store_is_asked_again(overloaded: Store) -> None:
    assert overloaded.listing("") == {}


def test_a_refusal_is_told_at_once_with_the_next_step(closed: Store, elsewhere: Store) -> None:
    with pytest.raises(OutputError, match=r"s3://.*/a: what S3 says; set AWS_ACCESS_KEY_ID .*list, read, write"):
        closed.size("a")
    with pytest.raises(OutputError, match=r"s3://.*/a: what S3 says; correct the URL, AWS_ENDPOINT_URL or AWS_DEFAULT"):
        elsewhere.size("a")


def test_wrong_credentials_are_told_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "0")  # moto then looks at them
    with s3_server() as strict:
        store = Store(strict.root, strict.options)
        with pytest.raises(OutputError, match=r"Access Key Id.* set AWS_ACCESS_KEY_ID") as refused:
            store.write("a", b"1")
    for text in (str(refused.value), str(refused.value.__cause__)):
        assert KEY not in text
        assert SECRET not in text


def test_an_object_that_is_gone_cannot_be_downloaded(store: Store, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is gone: was it removed meanwhile"):
        store.download("a", tmp_path / "a")


def test_another_patience_shares_the_connections(store: Store) -> None:
    other = store.with_patience(0.0)
    other.write("a", b"1")
    assert store.read("a") == other.read("a")
    assert other._fs is store._fs
    assert (store._patience_s, other._patience_s) == (60.0, 0.0)
