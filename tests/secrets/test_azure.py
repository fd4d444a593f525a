"""Secrets from Azure Key Vault, asked by Azure's client by TLS, with a challenge before each first answer."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("azure.keyvault.secrets")

from tests.secrets.servers import SECRET, Certificate, Credential, KeyVault, Request, Stub, always, say, serving

from mlguard import AzureSecrets, ConfigurationError, SecretNotFoundError, SecretUnavailableError


@pytest.fixture
def vault() -> KeyVault:
    return KeyVault(
        plain=SECRET + "\n",
        iris=json.dumps({"token": SECRET, "number": 7}),
        empty="",
        none=None,
        MLGUARD_STORE_URL="memory://",
        page=f"<html>{SECRET}",
    )


@pytest.fixture
def running(vault: KeyVault, certificate: Certificate) -> Iterator[Stub]:
    with serving(vault, certificate=certificate) as stub:
        # As its client demands, the vault's host is below what a token is for: 127.0.0.1 is below 0.0.1.
        stub.url = stub.url.replace("localhost", "127.0.0.1")
        yield stub


def open_vault(running: Stub, certificate: Certificate, **options: Any) -> AzureSecrets:
    options = {"credential": Credential(), **options}
    return AzureSecrets(running.url, ca=certificate.authority, **options)


def test_values_and_keys_of_objects(running: Stub, certificate: Certificate) -> None:
    """A secret is its value, a key of an object is named behind #, and an underscore stands for a hyphen."""
    source = open_vault(running, certificate)
    assert source.read("plain").get_secret_value() == SECRET
    assert source.read("iris#token").get_secret_value() == SECRET
    assert source.read("MLGUARD_STORE_URL").get_secret_value() == "memory://"
    assert open_vault(running, certificate, prefix="iris#").read("token").get_secret_value() == SECRET
    assert repr(source) == f"AzureSecrets('azure://{running.url.removeprefix('https://')}/')"


def test_only_secrets_are_asked_for(running: Stub, certificate: Certificate) -> None:
    """Nothing is listed, and the first request goes without a token, to be told what it must be for."""
    credential = Credential()
    open_vault(running, certificate, credential=credential).read("plain")
    assert {request.path.partition("?")[0].rstrip("/") for request in running.asked} == {"/secrets/plain"}
    assert credential.scopes == [f"https://{running.url.partition('.')[2]}/.default"]


@pytest.mark.parametrize("name", ["nothing", "iris#nothing"])
def test_what_is_not_there(name: str, running: Stub, certificate: Certificate) -> None:
    """A secret or a key that the vault does not have is told apart from a vault that cannot be asked."""
    with pytest.raises(SecretNotFoundError) as error:
        open_vault(running, certificate).read(name)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [("iris", "name one"), ("iris#number", "no text"), ("empty", "empty"), ("none", "403"), ("page", "HTML")],
)
def test_what_is_no_secret(name: str, why: str, running: Stub, certificate: Certificate) -> None:
    """An object without a key, a number, nothing, a page and a disabled secret are not taken for secrets."""
    with pytest.raises(SecretUnavailableError, match=why) as error:
        open_vault(running, certificate).read(name)
    assert not isinstance(error.value, SecretNotFoundError)


def test_a_token_for_another_domain_is_not_sent(vault: KeyVault, running: Stub, certificate: Certificate) -> None:
    """A vault that asks for a token of another service gets none."""
    vault.resource = "https://management.azure.com"
    credential = Credential()
    with pytest.raises(SecretUnavailableError, match="cannot be asked"):
        open_vault(running, certificate, credential=credential).read("plain")
    assert credential.scopes == []


def test_certificates_are_verified(running: Stub, certificate: Certificate) -> None:
    """A certificate of an authority that nobody named, or for another host, ends the read before anything is sent."""
    with pytest.raises(SecretUnavailableError, match="cannot be asked"):
        AzureSecrets(running.url, credential=Credential()).read("plain")
    other = Stub(running.url.replace("127.0.0.1", "127.0.0.2"), running.answer)
    with pytest.raises(SecretUnavailableError, match="cannot be asked"):
        open_vault(other, certificate).read("plain")
    assert running.asked == []


def test_redirects_are_not_followed(running: Stub, certificate: Certificate) -> None:
    """Nothing, and above all no token, goes to another place that the vault names."""
    with serving(always(200, {"value": SECRET, "id": "x"}), certificate=certificate) as other:
        vault = running.answer

        def elsewhere(stub: Stub, request: Any, http: Any) -> None:
            if "authorization" in request.headers:
                say(http, 307, b"", Location=other.url + request.path)
            else:
                vault(stub, request, http)

        running.answer = elsewhere
        with pytest.raises(SecretUnavailableError, match="307"):
            open_vault(running, certificate).read("plain")
        assert other.asked == []


def test_an_answer_for_another_secret_is_none(running: Stub, certificate: Certificate) -> None:
    """An answer that is not about what was asked for is refused."""
    running.answer = always(200, {"value": SECRET, "id": f"{running.url}/secrets/other/1"})
    with pytest.raises(SecretUnavailableError, match="another secret"):
        open_vault(running, certificate).read("plain")


@pytest.mark.parametrize("said", [[], {}, {"value": 7, "id": "x"}, {"value": SECRET}, {"value": SECRET, "id": 7}])
def test_answers_of_another_form(said: Any, running: Stub, certificate: Certificate) -> None:
    """What is no answer of a vault is no secret."""
    running.answer = always(200, said)
    with pytest.raises(SecretUnavailableError) as error:
        open_vault(running, certificate).read("plain")
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "vault", [None, "", "a", "my_vault", "http://iris.vault.azure.net", f"https://u:{SECRET}@v.example", "https://v/x"]
)
def test_vaults_that_cannot_be(vault: Any) -> None:
    """A vault is a name or a host that speaks TLS, and what else it may be is not quoted."""
    with pytest.raises(ConfigurationError, match="AzureSecrets") as error:
        AzureSecrets(vault)
    assert SECRET not in str(error.value)


def test_the_identity_of_a_service_is_taken_and_that_of_a_developer_is_not() -> None:
    """Without a credential it is that of the surroundings; the vault's host is that of its name."""
    source = AzureSecrets("iris-prod")
    assert repr(source) == "AzureSecrets('azure://iris-prod.vault.azure.net/')"
    kinds = {type(each).__name__ for each in source._client._client._config.credential.credentials}
    assert not {kind for kind in kinds if "Cli" in kind or "Shell" in kind or "Shared" in kind or "Browser" in kind}


def test_a_proxy_of_the_surroundings_is_used(
    running: Stub, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vault is reached by the proxy that the environment names, unless it says that this host needs none."""

    def refuse(_: Stub, request: Request, http: Any) -> None:
        say(http, 403, b"")

    with serving(refuse) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(SecretUnavailableError, match="cannot be asked"):
            open_vault(running, certificate).read("plain")
        assert [request.path for request in proxy.asked] == [running.url.removeprefix("https://")]
        assert running.asked == []
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert open_vault(running, certificate).read("plain").get_secret_value() == SECRET
