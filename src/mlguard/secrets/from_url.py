"""Where secrets come from, in one line of text, such as ``vault://vault.internal:8200/secret/iris/``."""

import re
from typing import Any
from urllib.parse import parse_qsl

from pydantic import SecretStr

from mlguard.errors import ConfigurationError
from mlguard.secrets.aws import AWSSecrets
from mlguard.secrets.azure import AzureSecrets
from mlguard.secrets.directory import DirectorySecrets
from mlguard.secrets.environment import EnvironmentSecrets
from mlguard.secrets.google import GoogleSecrets
from mlguard.secrets.source import SecretSource
from mlguard.secrets.vault import VaultSecrets

_FORM = (
    "env:, dir:///run/secrets, aws://region/prefix, azure://vault-name/prefix, gcp://project/prefix or "
    "vault://host:port/mount/prefix, and holds no credential"
)
_DIRECTORY = re.compile(r"dir:(?://)?(/(?!/)[^\0]*)", re.DOTALL)
_REMOTE = re.compile(
    r"(?P<kind>aws|azure|gcp|vault)://(?P<place>[A-Za-z0-9.:\[\]-]*)(?:/(?P<path>[^?#\s]*))?(?:\?(?P<query>[^#\s]*))?(?P<key>#?)",
    re.ASCII,
)
_OPTIONS = {
    "aws": {"timeout", "stage"},
    "azure": {"timeout", "ca"},
    "gcp": {"timeout", "version"},
    "vault": {"timeout", "ca", "namespace", "auth_mount", "kubernetes_role", "role_id"},
}


def source_from_url(
    url: str,
    *,
    where: str,
    vault_token: SecretStr | None = None,
    vault_secret_id: SecretStr | None = None,
) -> SecretSource:
    """Open the source of secrets that a URL names. What stands in its path is put before each name.

    Args:
        url: ``env:``; ``dir:///run/secrets``; ``aws://eu-central-1/prod/``; ``azure://vault-name``; ``gcp://project``;
            ``vault://host:8200/mount/prefix/``, which is asked by TLS. A ``#`` at the end makes names keys of one
            secret: ``aws://eu-central-1/prod/iris#``. Options of the source stand behind ``?``.
        where: The setting it comes from, for errors.
        vault_token: A token for Vault.
        vault_secret_id: The secret id that belongs to ``?role_id=``.

    Raises:
        ConfigurationError: It is no such URL, or the source cannot be built. Nothing of the URL is quoted.
    """
    if url == "env:":
        return EnvironmentSecrets()
    if isinstance(url, str) and (directory := _DIRECTORY.fullmatch(url)):
        return DirectorySecrets(directory[1])
    found = _REMOTE.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        raise ConfigurationError(f"{where} is {_FORM}")
    kind, place = found["kind"], found["place"]
    path = (found["path"] or "") + found["key"]
    options = _options(kind, found["query"] or "", where)
    if kind == "aws":
        return AWSSecrets(place or None, prefix=path, **options)
    if kind == "azure":
        return AzureSecrets(f"https://{place}" if "." in place or ":" in place else place, prefix=path, **options)
    if kind == "gcp":
        return GoogleSecrets(place, prefix=path, **options)
    return _vault(place, path, options, vault_token, vault_secret_id)


def _vault(
    place: str, path: str, options: dict[str, Any], token: SecretStr | None, secret_id: SecretStr | None
) -> VaultSecrets:
    mount, _, prefix = path.partition("/")
    if "role_id" in options:
        options["app_role"] = (options.pop("role_id"), secret_id)
    return VaultSecrets(f"https://{place}", mount=mount, prefix=prefix, token=token, **options)


def _options(kind: str, query: str, where: str) -> dict[str, Any]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options: dict[str, Any] = dict(pairs)
    if len(options) != len(pairs) or not options.keys() <= _OPTIONS[kind]:
        raise ConfigurationError(f"{where}: behind ? may stand, once each: {', '.join(sorted(_OPTIONS[kind]))}")
    if "timeout" in options:
        try:
            options["timeout"] = float(options["timeout"])
        except ValueError:
            options["timeout"] = None  # what reads it says what it should be
    return options
