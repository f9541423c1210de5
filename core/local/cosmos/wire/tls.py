"""Makes the certificate of a server that speaks TLS, and hands it to clients that want to trust it."""

from __future__ import annotations

import secrets
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from core.local.cosmos.wire.application import Receive, Send

CERTIFICATE_PATH = "/_explorer/emulator.pem"
"""Where Microsoft's emulator serves its certificate."""

_NAMES = ("localhost", "127.0.0.1", "::1")
_VALID = timedelta(days=365)
_SKEW = timedelta(days=1)  # a client's clock may be behind


class Certificate:
    """A self-signed certificate for `localhost`, 127.0.0.1, ::1 and `host`, valid for a year from `now`.

    `now` is in seconds since the epoch. `pem` is the certificate without its key; `context` serves it.
    """

    def __init__(self, host: str, now: float) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _sign(key, host, datetime.fromtimestamp(now, UTC))
        self.pem = signed.public_bytes(serialization.Encoding.PEM)
        self.context = _context(self.pem, key)


class CertificateGiver:
    """An ASGI application that answers for the certificate, to anybody, and leaves all else to another one."""

    def __init__(self, application: Callable[[dict[str, Any], Receive, Send], Awaitable[None]], pem: bytes) -> None:
        self._application = application
        self._pem = pem

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["path"] != CERTIFICATE_PATH or scope["method"] != "GET":
            await self._application(scope, receive, send)
            return
        headers = [
            (b"content-type", b"application/x-pem-file"),
            (b"content-length", b"%d" % len(self._pem)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._pem})


def _sign(key: ec.EllipticCurvePrivateKey, host: str, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    usage = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    public = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([_general(each) for each in dict.fromkeys((*_NAMES, host))]), False)
        # No authority: whoever trusts it trusts this server alone.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(public, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name.partition("%")[0]))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode())


def _context(pem: bytes, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    """Return what serves the certificate.

    The standard library takes a key from a file only. So it is in one for a moment, in a directory that nobody else may
    enter, enciphered with a password that is nowhere: what a crash or a disk keeps of it is of no use.
    """
    password = secrets.token_bytes(32).hex()
    cipher = serialization.BestAvailableEncryption(password.encode())
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    with tempfile.TemporaryDirectory(prefix="crossfeed-tls-") as directory:  # made with mode 0700
        file = Path(directory) / "chain.pem"
        file.write_bytes(pem + secret)
        context.load_cert_chain(file, password=password)
    return context
