"""TLS certificates of a server at 127.0.0.1: good, and with one fault each."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

BAD = ("self-signed", "expired", "of another host", "of the future")
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def make_certificate(folder: Path, kind: str = "good") -> tuple[Path, Path]:
    """Write a server's certificate with its key, and the authority that a client trusts; return both files."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _build("authority", authority_key, authority_key, "authority")
    days = {"expired": (-3, -1), "of the future": (1, 3)}.get(kind, (-1, 1))
    address = "127.0.0.2" if kind == "of another host" else "127.0.0.1"
    signed_by = ("server", key) if kind == "self-signed" else ("authority", authority_key)
    built = _build("server", key, signed_by[1], signed_by[0], days, address)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.mkdir(exist_ok=True)
    (folder / "server.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    (folder / "authority.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    return folder / "server.pem", folder / "authority.pem"


def _build(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    signed_by: str,
    days: tuple[int, int] = (-9, 9),
    address: str | None = None,
) -> x509.Certificate:
    subject, issuer = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, signed_by))
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW + days[0] * DAY).not_valid_after(NOW + days[1] * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=address is None, path_length=None), critical=True)
    if address is not None:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer, hashes.SHA256())
