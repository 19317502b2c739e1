"""The clients of libraries verify certificates, too: an object store's, the Hub's, Prefect's."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.certificates import BAD, make_certificate

CLIENTS = {  # each a program, for libraries read their settings once
    "store": """
from tasks.store.object_store import Store
Store("s3://bucket/x", {"endpoint_url": URL, "key": "k", "secret": "s3cret"}, patience_s=0.1).read("a")
""",
    "hub": """
from huggingface_hub import HfApi
HfApi(endpoint=URL, token="hf_s3cret").dataset_info("org/name")
""",
    "prefect": """
from uuid import uuid4
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_KEY, PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
with temporary_settings({PREFECT_API_URL: URL + "/api", PREFECT_API_KEY: "s3cret", PREFECT_CLIENT_MAX_RETRIES: 0}):
    with get_client(sync_client=True) as client:
        client.read_flow_run(uuid4())
""",
}


@contextmanager
def tls_server(certificate: Path, requests: list[str]) -> Iterator[str]:
    """A server that answers 404, and notes every request that is sent to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(f"{self.path} {dict(self.headers)}")
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None: ...

    class Server(HTTPServer):
        def handle_error(self, request: object, client_address: object) -> None: ...

    server = Server(("127.0.0.1", 0), Handler)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*BAD, "good"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_bad_certificate_is_refused_and_sees_no_secret(client: str, kind: str, tmp_path: Path) -> None:
    certificate, authority = make_certificate(tmp_path / "made", kind)
    trusted = dict.fromkeys(("SSL_CERT_FILE", "AWS_CA_BUNDLE", "PREFECT_API_SSL_CERT_FILE"), str(authority))
    requests: list[str] = []
    with tls_server(certificate, requests) as url:
        done = subprocess.run(
            [sys.executable, "-c", f"URL = {url!r}\n{CLIENTS[client]}"],
            env={**os.environ, **trusted, "HF_HUB_OFFLINE": "0", "PREFECT_HOME": str(tmp_path / "home")},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0 or "Error" in done.stderr
    if kind == "good":
        assert requests, done.stderr[-2000:]
    else:
        assert "certificate" in done.stderr.lower(), done.stderr[-2000:]
        assert requests == []
