"""HTTPS with uvicorn, and nothing but HTTPS: a certificate for localhost is made at the start.

::

    export MLGUARD_API_KEYS=$(python -c "import secrets; print(secrets.token_urlsafe(32))")
    python -m examples.tls

It prints a curl line. Plain HTTP is refused, not redirected: a redirect would come after the key has travelled in clear
text, and hide that the client's URL is wrong. ``harden`` sends Strict-Transport-Security, which keeps browsers
from trying.

For a real host, leave ``make_certificate`` out and give uvicorn the files of your certificate authority.
"""

import argparse
import ipaddress
import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from fastapi import Depends, FastAPI

from mlguard import harden, require_api_key

app = FastAPI()
harden(app)


@app.get("/ready", dependencies=[Depends(require_api_key)])
def ready() -> dict[str, bool]:
    """Stands for your endpoints."""
    return {"ready": True}


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, good for one day.

    Returns:
        The files of the certificate and of its private key, which only this user can read.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "localhost.pem", folder / "localhost.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    # With its permissions from the first moment on, not changed afterwards.
    with open(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123  # an fd
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return certificate_file, key_file


def main() -> None:
    """Serve on https://localhost until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m examples.tls")
    parser.add_argument("--port", type=int, default=8443)
    port = parser.parse_args().port
    with tempfile.TemporaryDirectory(prefix="mlguard-tls-") as folder:  # only this user can look into it
        certificate_file, key_file = make_certificate(Path(folder))
        call = f'curl --cacert {certificate_file} -H "X-API-Key: $MLGUARD_API_KEYS" https://localhost:{port}/ready'
        print(call, flush=True)
        uvicorn.run(
            app,
            port=port,
            ssl_certfile=certificate_file,
            ssl_keyfile=key_file,
            ssl_version=ssl.PROTOCOL_TLS_SERVER,
            ssl_ciphers="ECDHE+AESGCM:ECDHE+CHACHA20",  # with the TLS 1.2 that is left; 1.3 has no others
            server_header=False,
        )


if __name__ == "__main__":
    main()
