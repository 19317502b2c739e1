"""A Hub that sends an upload elsewhere: what it says there holds no token, nor does any error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sampling.errors import ConfigurationError, PublishError
from tasks.publish.hub.upload import upload_dataset
from tests.tasks.publish.hub.server import TOKEN, HubServer
from tests.tasks.publish.hub.test_upload import made

ID = "org/set"


@contextmanager
def stranger(address: str, location: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """A server at another address that answers {}, or redirects; its URL, and all that it is sent but bodies."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            heard.append(f"{self.requestline} {dict(self.headers)}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200 if location is None else 307)
            if location is not None:
                self.send_header("Location", location + self.path)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_HEAD = do_POST = do_PUT = answer

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer((address, 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://{address}:{server.server_port}", heard
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("tasks.publish.hub.upload.MAX_TRIES", 1)


def test_a_file_that_is_to_be_sent_elsewhere_takes_no_token_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer() as hub, stranger("127.0.0.2") as (url, heard):
        batch = hub._batch

        def elsewhere(*args: Any, **kwargs: Any) -> Any:
            answer, headers = batch(*args, **kwargs)
            for asked in answer["objects"]:
                asked["actions"] = {"upload": {"href": f"{url}/store/{asked['oid']}"}}
            return answer, headers

        monkeypatch.setattr(hub, "_batch", elsewhere)
        with pytest.raises(ConfigurationError, match="was not uploaded") as caught:  # where this Hub looks for it
            upload_dataset(made(tmp_path / "set"), ID, token=TOKEN, private=True, endpoint=hub.url)
    assert len(heard) == 2  # its files of data
    assert TOKEN not in "\n".join([*heard, str(caught.value)])


def test_a_hub_that_redirects_elsewhere_takes_no_token_along(tmp_path: Path) -> None:
    with (
        stranger("127.0.0.2") as (url, heard),
        stranger("127.0.0.1", location=url) as (hub, asked),
        pytest.raises(PublishError, match="an answer that cannot be read") as caught,
    ):
        upload_dataset(made(tmp_path / "set"), ID, token=TOKEN, private=True, endpoint=hub)
    assert TOKEN in "\n".join(asked)
    assert TOKEN not in "\n".join([*heard, str(caught.value)])
