"""Sources that a URL names."""

import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from tests.secrets.servers import SECRET

from mlguard import ConfigurationError, DirectorySecrets, EnvironmentSecrets
from mlguard.secrets.from_url import source_from_url


def opened(url: str, **options: Any) -> str:
    return repr(source_from_url(url, where="X", **options))


def test_sources_of_this_machine(tmp_path: Path) -> None:
    """``env:`` is the environment, ``dir:`` an absolute path."""
    assert isinstance(source_from_url("env:", where="X"), EnvironmentSecrets)
    assert isinstance(source_from_url(f"dir://{tmp_path}", where="X"), DirectorySecrets)
    assert opened("dir:///run/secrets") == opened("dir:/run/secrets") == "DirectorySecrets('/run/secrets')"


@pytest.mark.parametrize(
    ("package", "url", "source"),
    [
        ("boto3", "aws://eu-central-1", "AWSSecrets('aws://eu-central-1/')"),
        ("boto3", "aws://eu-central-1/prod/", "AWSSecrets('aws://eu-central-1/prod/')"),
        ("boto3", "aws://eu-central-1/prod/iris?timeout=2#", "AWSSecrets('aws://eu-central-1/prod/iris#')"),
        ("azure.keyvault", "azure://iris-prod", "AzureSecrets('azure://iris-prod.vault.azure.net/')"),
        ("azure.keyvault", "azure://iris.vault.azure.cn/iris-", "AzureSecrets('azure://iris.vault.azure.cn/iris-')"),
        ("google.cloud.secretmanager_v1", "gcp://iris-1234?version=3", "GoogleSecrets('gcp://iris-1234/')"),
        ("hvac", "vault://v.internal:8200/secret/iris/", "VaultSecrets('vault://v.internal:8200/secret/iris/')"),
        ("hvac", "vault://v.internal/kv/iris#", "VaultSecrets('vault://v.internal/kv/iris#')"),
        ("hvac", "vault://v.internal/kv?namespace=team&timeout=1.5", "VaultSecrets('vault://v.internal/kv/')"),
    ],
)
def test_stores(package: str, url: str, source: str) -> None:
    """The place stands behind ``://``, what stands before each name behind that, options behind ``?``."""
    pytest.importorskip(package)
    assert opened(url, vault_token=SecretStr(SECRET)) == source


def test_ways_to_log_in_to_vault() -> None:
    """Roles stand in the URL, and what is secret beside it."""
    pytest.importorskip("hvac")
    assert opened("vault://v/secret?kubernetes_role=iris&auth_mount=eks")
    assert opened("vault://v/secret?role_id=iris", vault_secret_id=SecretStr(SECRET))
    for url in ("vault://v/secret", "vault://v/secret?role_id=iris", "vault://v/secret?role_id=&kubernetes_role=iris"):
        with pytest.raises(ConfigurationError, match="VaultSecrets"):
            opened(url)


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "env",
        "env://",
        "environment:",
        "run/secrets",
        "/run/secrets",
        "dir:",
        "dir:secrets",
        "dir://secrets",
        "file:///run/secrets",
        f"https://{SECRET}@vault.internal",
        f"vault://root:{SECRET}@vault.internal/secret",
        f"vault://vault.internal/secret#{SECRET}",
        f"vault://vault.internal/secret?token={SECRET}",
        "vault://vault.internal/secret?timeout=1&timeout=2",
        "vault://vault.internal/secret?timeout=soon",
        "vault://vault.internal/secret#",
        "vault://vault.internal/../sys/x",
        "vault://vault.internal",
        "AWS://eu-central-1",
        "aws://eu central",
        "azure://",
        "gcp://",
        "gcp://a b",
        " env:",
        "env:\n",
    ],
)
def test_what_names_no_source(url: Any) -> None:
    """A typo is no source; nothing of it is quoted, for it may hold a credential."""
    for package in ("boto3", "azure.keyvault.secrets", "google.cloud.secretmanager_v1", "hvac"):
        pytest.importorskip(package)
    with pytest.raises(ConfigurationError) as error:
        source_from_url(url, where="MLGUARD_SECRETS", vault_token=SecretStr("root"))
    assert SECRET not in "".join(traceback.format_exception(error.value))


@given(st.text())
def test_any_text(text: str) -> None:
    """Any text that names no source is a ConfigurationError."""
    if not text.startswith(("env:", "dir:")):
        with pytest.raises(ConfigurationError, match="X is env:"):
            source_from_url(text, where="X")


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("aws://eu-central-1", "boto3", "aws"),
        ("azure://iris-prod", "azure.keyvault.secrets", "azure"),
        ("gcp://iris", "google.cloud.secretmanager_v1", "gcp"),
        ("vault://v/secret", "hvac", "vault"),
    ],
)
def test_a_package_that_is_missing_names_itself(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its package, a source says what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'mlguard\[{extra}\]'"):
        source_from_url(url, where="X", vault_token=SecretStr("root"))
