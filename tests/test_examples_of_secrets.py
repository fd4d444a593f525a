"""Each example of a source is started against something that speaks the store's protocol, and called."""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from mlguard.client import HTTPSignature
from tests.secrets.servers import KeyVault, Request, Stub, Vault, make_certificate, say, secrets_manager, serving
from tests.test_examples import started

#: The environment of the example, while its store is running.
Store = Callable[[str, Path], AbstractContextManager[dict[str, str]]]


@contextmanager
def variable(secret: str, _: Path) -> Iterator[dict[str, str]]:
    yield {"PARTNER_SECRET": secret}


@contextmanager
def file_of_a_variable(secret: str, folder: Path) -> Iterator[dict[str, str]]:
    (folder / "partner.secret").write_text(secret + "\n")
    yield {"PARTNER_SECRET_FILE": str(folder / "partner.secret")}


@contextmanager
def directory(secret: str, folder: Path) -> Iterator[dict[str, str]]:
    (folder / "partner").write_text(secret + "\n")
    yield {"SECRETS_DIRECTORY": str(folder)}


@contextmanager
def aws(secret: str, _: Path) -> Iterator[dict[str, str]]:
    pytest.importorskip("boto3")
    pytest.importorskip("moto")
    import boto3  # type: ignore[import-untyped]  # it has no types

    with secrets_manager() as url:
        session = boto3.Session("testing", "testing", region_name="eu-central-1")
        client = session.client("secretsmanager", endpoint_url=url)
        client.create_secret(Name="prod/iris", SecretString=json.dumps({"partner": secret}))
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
        }


@contextmanager
def azure(secret: str, folder: Path) -> Iterator[dict[str, str]]:
    """A vault, and the endpoint where App Service has the managed identity of a service."""
    pytest.importorskip("azure.keyvault.secrets")
    certificate = make_certificate(folder)

    def identity(_: Stub, request: Request, http: object) -> None:
        assert request.headers["x-identity-header"] == "it-is-me"
        say(http, 200, {"access_token": "a-token", "expires_on": "4102444800", "token_type": "Bearer"})  # type: ignore[arg-type]  # as above

    with serving(KeyVault(partner=secret), certificate=certificate) as vault, serving(identity) as endpoint:
        yield {
            "KEY_VAULT": vault.url.replace("localhost", "127.0.0.1"),
            "KEY_VAULT_CA": certificate.authority,
            "IDENTITY_ENDPOINT": endpoint.url,
            "IDENTITY_HEADER": "it-is-me",
        }


@contextmanager
def google(secret: str, folder: Path) -> Iterator[dict[str, str]]:
    """Secret Manager by TLS, and the key of a service account, which signs its tokens itself."""
    pytest.importorskip("google.cloud.secretmanager_v1")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    from tests.secrets import test_google

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "iris@iris-prod.iam.gserviceaccount.com",
        "private_key": key.decode(),
        "token_uri": "https://127.0.0.1:9/token",
    }
    (folder / "account.json").write_text(json.dumps(account))
    certificate = make_certificate(folder)

    def answer(name: str, context: object) -> bytes:
        sent = dict(context.invocation_metadata())  # type: ignore[attr-defined]  # gRPC has no types
        assert sent["authorization"].startswith("Bearer ey")
        return test_google.payload(name, secret.encode())

    with test_google.server_of(answer, certificate) as port:
        yield {
            "GOOGLE_PROJECT": "iris-prod",
            "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "account.json"),
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": certificate.authority,
            "SECRET_MANAGER": f"localhost:{port}",
        }


@contextmanager
def vault(secret: str, folder: Path) -> Iterator[dict[str, str]]:
    pytest.importorskip("hvac")
    from tests.secrets.servers import SECRET

    (folder / "secret-id").write_text(SECRET)
    with serving(Vault(iris={"partner": secret})) as stub:
        yield {"VAULT_URL": stub.url, "ROLE_ID": "iris", "SECRET_ID_FILE": str(folder / "secret-id")}


STORES: dict[str, tuple[str, Store]] = {
    "a variable": ("environment", variable),
    "a file of a variable": ("environment", file_of_a_variable),
    "a directory": ("directory", directory),
    "aws": ("aws", aws),
    "azure": ("azure", azure),
    "google": ("google", google),
    "vault": ("vault", vault),
}


@pytest.mark.parametrize("store", STORES)
def test_a_service_with_its_secret_from_a_store(store: str, tmp_path: Path) -> None:
    """The service answers who signs with the secret of the store, and nobody else; its output holds no secret."""
    secret = secrets.token_urlsafe(32)
    name, running_store = STORES[store]
    with running_store(secret, tmp_path) as environment, started(f"secrets_from/{name}", **environment) as running:
        url = running.url()
        statuses = [
            httpx.get(f"{url}/ready", auth=HTTPSignature("partner", key), trust_env=False, timeout=60).status_code
            for key in (secret, secrets.token_urlsafe(32))
        ]
        assert statuses == [200, 401]
        assert secret not in running.output


def test_a_service_without_its_secret_does_not_start(tmp_path: Path) -> None:
    """It ends, and says which secret it did not find where."""
    with started("secrets_from/directory", SECRETS_DIRECTORY=str(tmp_path)) as running:
        with pytest.raises(RuntimeError, match=r"the secret partner cannot be read from dir:.*there is no such file"):
            running.url()
        assert running.process.returncode != 0
