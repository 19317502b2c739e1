"""The verification of TLS certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from sampling.errors import ServerRefusedError
from sampling.served.client import ModelClient
from tests.certificates import BAD, make_certificate
from tests.sampling.served.conftest import FAKE, FAST, connected
from tests.sampling.served.proxy import Proxy


@pytest.mark.parametrize("kind", [*BAD, "of an unknown authority", "good"])
async def test_a_bad_certificate_is_refused_without_a_retry(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, authority = make_certificate(tmp_path / "made", kind)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    if kind != "of an unknown authority":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with Proxy(FAKE, tls) as proxy:
        if kind == "good":
            async with connected(proxy.url, api_key="secret") as trusted:
                assert (await trusted.next_token([1], 3)).num_top == 3
            return
        client = ModelClient("teacher", [proxy.url], FAST, api_key="secret")
        with pytest.raises(ServerRefusedError, match=r"certificate that does not hold: .*SSL_CERT_FILE"):
            await client.open()
        assert client.num_retries == 0
        assert proxy.requests == []  # nor has it seen the key
