"""The verification of TLS certificates."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sampling.errors import ServerRefusedError
from sampling.served.client import ModelClient
from tests.sampling.served.conftest import FAKE, FAST, connected
from tests.sampling.served.proxy import Proxy


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "server.pem"
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    return path


async def test_a_self_signed_certificate_is_refused_without_a_retry(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with Proxy(FAKE, tls) as proxy:
        client = ModelClient("teacher", [proxy.url], FAST, api_key="secret")
        with pytest.raises(ServerRefusedError, match=r"certificate that does not hold: .*SSL_CERT_FILE"):
            await client.open()
        assert client.num_retries == 0
        assert proxy.requests == []
        # accepted once its authority is trusted
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with connected(proxy.url, api_key="secret") as trusted:
            assert (await trusted.next_token([1], 3)).num_top == 3
