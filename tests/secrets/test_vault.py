"""Secrets from Vault, asked by its own client over its own protocol."""

import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tests.clock import Clock
from tests.secrets.servers import SECRET, Certificate, Stub, Vault, always, serving

from mlguard import ConfigurationError, SecretNotFoundError, SecretUnavailableError, VaultSecrets

pytest.importorskip("hvac")


@pytest.fixture
def vault() -> Vault:
    return Vault(iris={"token": SECRET, "value": "the-value", "number": 7, "empty": ""}, team__iris={"value": SECRET})


@pytest.fixture
def running(vault: Vault) -> Iterator[Stub]:
    with serving(vault) as stub:
        yield stub


def value(source: VaultSecrets, name: str) -> str:
    return source.read(name).get_secret_value()


def test_keys_of_secrets(running: Stub) -> None:
    """A name is a path and a key; without a key, it is ``value``."""
    source = VaultSecrets(running.url, token="root")
    assert value(source, "iris#token") == SECRET
    assert value(source, "iris") == "the-value"
    assert value(source, "team/iris") == SECRET
    assert value(VaultSecrets(running.url, token="root", prefix="iris#"), "token") == SECRET
    assert value(VaultSecrets(running.url, token="root", prefix="team/"), "iris") == SECRET


@pytest.mark.parametrize("name", ["nothing", "iris#nothing", "team"])
def test_what_is_not_there(name: str, running: Stub) -> None:
    """A path or a key that Vault does not have is told apart from a Vault that cannot be asked."""
    with pytest.raises(SecretNotFoundError, match=r"iris|nothing|team"):
        VaultSecrets(running.url, token="root").read(name)


@pytest.mark.parametrize(("name", "why"), [("iris#number", "no text"), ("iris#empty", "empty")])
def test_what_is_no_secret(name: str, why: str, running: Stub) -> None:
    """A number and an empty text are not taken for secrets."""
    with pytest.raises(SecretUnavailableError, match=why) as error:
        VaultSecrets(running.url, token="root").read(name)
    assert not isinstance(error.value, SecretNotFoundError)


def test_approle_logs_in_once_and_again_when_its_time_is_nearly_over(vault: Vault, running: Stub) -> None:
    """One login serves many reads, until three quarters of its time are over."""
    clock = Clock()
    source = VaultSecrets(running.url, app_role=("iris", SecretStr(SECRET)), clock=clock)
    for _ in range(3):
        assert value(source, "iris#token") == SECRET
    clock.now += 2699
    source.read("iris")
    assert vault.logins == 1
    clock.now += 2
    source.read("iris")
    assert vault.logins == 2


def test_a_login_without_an_end_is_kept(vault: Vault, running: Stub) -> None:
    """A token of which Vault says no time holds until Vault refuses it."""
    vault.lease = 0
    clock = Clock()
    source = VaultSecrets(running.url, app_role=("iris", SECRET), clock=clock)
    source.read("iris")
    clock.now += 10_000_000
    source.read("iris")
    assert vault.logins == 1


def test_a_revoked_token_is_replaced(vault: Vault, running: Stub) -> None:
    """When Vault refuses the token of a login, there is one more login, and only one."""
    source = VaultSecrets(running.url, app_role=("iris", SECRET))
    source.read("iris")
    vault.tokens.clear()
    assert value(source, "iris#token") == SECRET
    assert vault.logins == 2
    vault.tokens = Never()
    with pytest.raises(SecretUnavailableError, match="Forbidden"):
        source.read("iris")
    assert vault.logins == 3


class Never(set[str]):
    """No token holds."""

    def __contains__(self, _: object) -> bool:
        return False


def test_many_threads_log_in_once(vault: Vault, running: Stub) -> None:
    """Threads that read at once share one login, also the one after a revocation."""
    source = VaultSecrets(running.url, app_role=("iris", SECRET), timeout=30)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: value(source, "iris#token"), range(24))) == {SECRET}
        assert vault.logins == 1
        vault.tokens.clear()
        assert set(pool.map(lambda _: value(source, "iris#token"), range(24))) == {SECRET}
    assert vault.logins == 2


def test_threads_that_read_at_once_get_their_own(vault: Vault, running: Stub) -> None:
    """Each of many reads at once gets what it has asked for."""
    vault.kept = {f"secret/{number}": {"value": f"value-{number}"} for number in range(60)}
    source = VaultSecrets(running.url, token="root", timeout=30)
    with ThreadPoolExecutor(12) as pool:
        assert [*pool.map(lambda n: value(source, str(n)), range(60))] == [f"value-{n}" for n in range(60)]


def test_a_login_that_is_refused(running: Stub) -> None:
    """A wrong secret id is told by the kind of refusal, and quotes neither it nor what Vault said."""
    with pytest.raises(SecretUnavailableError, match=r"Vault refuses \(InvalidRequest\)") as error:
        VaultSecrets(running.url, app_role=("iris", "wrong-" + SECRET[::-1])).read("iris")
    told = "".join(traceback.format_exception(error.value))
    assert SECRET not in told
    assert SECRET[::-1] not in told


def test_kubernetes_logs_in_with_the_token_of_the_pod(running: Stub, tmp_path: Path) -> None:
    """The token of the service account is read at each login, for it is renewed."""
    token = tmp_path / "token"
    source = VaultSecrets(running.url, kubernetes_role="iris", kubernetes_token=str(token))
    with pytest.raises(SecretUnavailableError):
        source.read("iris")
    token.write_text(SECRET + "\n")
    assert value(source, "iris#token") == SECRET


def test_a_file_with_a_token_is_read_at_each_read(vault: Vault, running: Stub, tmp_path: Path) -> None:
    """An agent may renew the token in a file."""
    file = tmp_path / "token"
    file.write_text("root\n")
    source = VaultSecrets(running.url, token=file)
    assert value(source, "iris#token") == SECRET
    vault.tokens = {"next"}
    with pytest.raises(SecretUnavailableError, match="Forbidden"):
        source.read("iris")
    file.write_text("next")
    assert value(source, "iris#token") == SECRET


def test_a_namespace_goes_along(vault: Vault, running: Stub) -> None:
    """Each request names the namespace, and without it nothing is found."""
    vault.namespace = "team"
    assert value(VaultSecrets(running.url, token="root", namespace="team"), "iris#token") == SECRET
    with pytest.raises(SecretNotFoundError):
        VaultSecrets(running.url, token="root").read("iris")


def test_the_surroundings_lend_no_token(
    vault: Vault, running: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither VAULT_TOKEN nor ~/.vault-token nor .netrc goes to a Vault that was not told to get it."""
    monkeypatch.setenv("VAULT_TOKEN", "root")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    (tmp_path / ".vault-token").write_text("root")
    (tmp_path / ".netrc").write_text(f"machine localhost login root password {SECRET}\n")
    (tmp_path / ".netrc").chmod(0o600)
    VaultSecrets(running.url, app_role=("iris", SECRET)).read("iris")
    login, read = running.asked
    assert "x-vault-token" not in login.headers
    assert read.headers["x-vault-token"] == "token-1"
    assert "authorization" not in {*login.headers, *read.headers}


def test_tls_is_verified(vault: Vault, certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of an authority that nobody named ends the read before a token is sent."""
    with serving(vault, certificate=certificate) as stub:
        assert value(VaultSecrets(stub.url, token="root", ca=certificate.authority), "iris#token") == SECRET
        assert len(stub.asked) == 1
        monkeypatch.setenv("VAULT_SKIP_VERIFY", "1")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate.authority)
        with pytest.raises(SecretUnavailableError, match=r"cannot be asked \(SSLError\)"):
            VaultSecrets(stub.url, token="root").read("iris")
        other = stub.url.replace("localhost", "127.0.0.2")
        with pytest.raises(SecretUnavailableError, match=r"SSLError|ConnectionError"):
            VaultSecrets(other, token="root", ca=certificate.authority).read("iris")
        assert len(stub.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """Nothing, and above all no token, goes to another place that Vault names."""
    with serving(always(200, {"data": {"data": {"value": SECRET}}})) as other:
        with serving(always(status, b"", Location=other.url + "/v1/secret/data/iris")) as stub:
            with pytest.raises(SecretUnavailableError, match="no secret of the engine"):
                VaultSecrets(stub.url, token="root").read("iris")
            with pytest.raises(SecretUnavailableError, match="no token"):
                VaultSecrets(stub.url, app_role=("iris", SECRET)).read("iris")
        assert other.asked == []


@pytest.mark.parametrize(
    "said",
    [None, [], "text", 1, {}, {"data": None}, {"data": {}}, {"data": {"data": None}}, {"data": {"data": SECRET}}],
)
def test_answers_of_another_form(said: Any) -> None:
    """What is no answer of the engine is no secret."""
    with serving(always(200, said)) as stub, pytest.raises(SecretUnavailableError, match="no secret of the engine"):
        VaultSecrets(stub.url, token="root").read("iris")


@pytest.mark.parametrize("auth", [None, [], {}, {"client_token": None}, {"client_token": ""}, {"client_token": 7}])
def test_logins_of_another_form(auth: Any) -> None:
    """A login that brings no token is a login that failed."""
    with serving(always(200, {"auth": auth})) as stub, pytest.raises(SecretUnavailableError, match="no token"):
        VaultSecrets(stub.url, app_role=("iris", SECRET)).read("iris")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"token": ""},
        {"token": SecretStr("")},
        {"token": 7},
        {"token": "root", "kubernetes_role": "iris"},
        {"app_role": "iris"},
        {"app_role": ("iris",)},
        {"app_role": ("iris", None)},
        {"app_role": ("", SECRET)},
        {"kubernetes_role": ""},
        {"token": "root", "mount": ""},
        {"token": "root", "mount": "../sys"},
        {"token": "root", "mount": "secret#"},
        {"token": "root", "mount": None},
        {"token": "root", "timeout": 0},
        {"token": "root", "timeout": float("nan")},
        {"token": "root", "timeout": "5"},
        {"token": "root", "timeout": 61},
    ],
)
def test_arguments_that_cannot_work(options: dict[str, Any]) -> None:
    """A setting that cannot work ends the construction."""
    with pytest.raises(ConfigurationError, match="VaultSecrets"):
        VaultSecrets("https://vault.internal:8200", **options)


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "vault.internal:8200",
        "ftp://vault.internal",
        "http://vault.internal:8200",
        "http://localhost.evil.example:8200",
        f"https://root:{SECRET}@vault.internal:8200",
        f"https://vault.internal/?token={SECRET}",
        f"https://vault.internal/{SECRET}",
        "https://vault.internal\n",
        "https://",
    ],
)
def test_urls_that_cannot_work(url: Any) -> None:
    """A token travels by TLS, or stays on this machine; a URL with more than a place is not quoted."""
    with pytest.raises(ConfigurationError, match="VaultSecrets") as error:
        VaultSecrets(url, token="root")
    assert SECRET not in "".join(traceback.format_exception(error.value))


def test_repr_names_the_place_alone() -> None:
    """Neither a token nor a secret id is in the repr, or in what a debugger shows of the object."""
    logins: list[dict[str, Any]] = [
        {"app_role": ("iris", SECRET)},
        {"token": SECRET},
        {"token": SecretStr(SECRET)},
    ]
    for login in logins:
        source = VaultSecrets("https://vault.internal:8200", prefix="iris#", **login)
        assert repr(source) == "VaultSecrets('vault://vault.internal:8200/secret/iris#')"
        assert SECRET not in repr(vars(source))
