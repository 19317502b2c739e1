"""A real S3 server for tests: moto in a child process, its objects in memory.

    with s3_server() as server:
        Mirror(server.root, folder, server.options)     # or with server.env in the environment

Run as a program, this module is the server.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUCKET = "bucket"
PAGE = 20  # objects a page of a listing; S3's own are 1,000
KEY, SECRET, REGION = "the-key-of-the-tests", "the-secret-of-the-tests", "us-east-1"


class S3Server:
    """The server's process, for any number of clients in any processes."""

    def __init__(self) -> None:
        self.port = 0  # any free one; kept after a stop
        self.start()

    @property
    def url(self) -> str:
        """Return the endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def root(self) -> str:
        """Return the URL of an existing bucket."""
        return f"s3://{BUCKET}"

    @property
    def env(self) -> dict[str, str]:
        """Return the environment variables of a client."""
        keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        return {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": REGION, **keys}

    @property
    def options(self) -> dict[str, Any]:
        """Return the same as options of s3fs."""
        return {"endpoint_url": self.url, "key": KEY, "secret": SECRET, "client_kwargs": {"region_name": REGION}}

    def start(self) -> None:
        """Start it with an empty bucket; return once it responds."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[3],
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> None:
        """Kill it with all its objects: connections are then refused."""
        self._process.kill()
        self._process.communicate()

    def pause(self) -> None:
        """Suspend it: connections are accepted, requests hang."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume it, with its objects."""
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server during the block; it ends with the tests even if they are killed."""
    server = S3Server()
    try:
        yield server
    finally:
        server.stop()


def serve(port: int) -> None:
    """Serve until stdin ends; the port is the first line of stdout."""
    os.environ["MOTO_S3_DEFAULT_MAX_KEYS"] = str(PAGE)
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import WSGIRequestHandler, make_server

    s3_backends["123456789012"]["aws"].create_bucket(BUCKET, REGION)
    moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Serialise conditional requests: moto tests a condition and writes in two steps, S3 atomically."""
        if "HTTP_IF_MATCH" in environ or "HTTP_IF_NONE_MATCH" in environ:
            with one_at_a_time:
                return moto(environ, start_response)
        return moto(environ, start_response)

    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # keep-alive, as S3
    server = make_server("127.0.0.1", port, app, threaded=True)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
