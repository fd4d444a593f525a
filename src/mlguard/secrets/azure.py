"""Secrets from Azure Key Vault."""

import re
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from mlguard._numbers import seconds
from mlguard.errors import ConfigurationError
from mlguard.secrets._answers import Missing, Unusable
from mlguard.secrets._http import open_session
from mlguard.secrets._json_keys import pick, split
from mlguard.secrets._reading import Reading, load_client

# Key Vault knows letters, digits and "-"; an underscore stands for "-", so that a variable's name is one.
_NAMES = re.compile(r"[A-Za-z0-9_-]{1,127}(?:#[A-Za-z0-9._-]{0,128})?", re.ASCII)
#: What DefaultAzureCredential tries on the machines of developers, and not in a service.
_OF_DEVELOPERS = (
    "shared_token_cache", "visual_studio_code", "cli", "developer_cli", "powershell", "interactive_browser", "broker",
)  # fmt: skip


class AzureSecrets:
    """Secrets from Azure Key Vault. Needs ``pip install 'mlguard[azure]'``.

    The service needs the role *Key Vault Secrets User*, best on single secrets, and nothing else: nothing is listed.
    Names have letters, digits and ``-``; an ``_`` is asked for as ``-``. A secret that is a JSON object has keys, as
    ``name#key``; without a key it is refused, and ``name#`` is all of it. Redirects are not followed, and a challenge
    for another domain's token is refused by Azure's client. ``HTTPS_PROXY`` and ``NO_PROXY`` are used.

    Args:
        vault: The name of the vault, or ``https://`` and its host for another cloud.
        credential: An ``azure.identity`` credential. None: that of the surroundings, which is the workload's or the
            managed identity, or a client secret or certificate in ``AZURE_…`` variables. What developers are logged in
            with is not tried; give ``AzureCliCredential()`` for that.
        prefix: Stands before every name.
        ca: A file with the certificates that may sign the vault's. None: those that ``requests`` brings.
        timeout: Seconds that one read may take in all, at most 60.

    Raises:
        ConfigurationError: Azure's client is not installed, or an argument cannot work.
    """

    def __init__(
        self, vault: str, *, credential: Any = None, prefix: str = "", ca: str | None = None, timeout: float = 5.0
    ) -> None:
        timeout = seconds("AzureSecrets(timeout=...)", timeout, most=60)
        url = _url_of(vault)
        host = urlsplit(url).netloc
        client = _load("azure.keyvault.secrets")
        self._errors = _load("azure.core.exceptions")
        if credential is None:
            exclude = {f"exclude_{kind}_credential": True for kind in _OF_DEVELOPERS}
            credential = _load("azure.identity").DefaultAzureCredential(**exclude)
        transport = _load("azure.core.pipeline.transport").RequestsTransport(
            session=open_session(source="AzureSecrets", extra="azure", ca=ca, proxies_for=url),
            session_owner=False,
            connection_timeout=timeout,
            read_timeout=timeout,
            connection_verify=ca or True,
        )
        self._client = client.SecretClient(
            url, credential, transport=transport, retry_total=0, permit_redirects=False, logging_enable=False
        )
        self._prefix = prefix
        self._reading = Reading(f"azure://{host}/{prefix}", names=_NAMES, timeout=timeout)

    def read(self, name: str) -> SecretStr:
        """The value of a secret in its latest version, or of one key of it, as ``name#key``.

        Raises:
            SecretUnavailableError: There is none or it is disabled, the vault cannot be asked, refuses or does not
                answer in time, or the secret is empty, larger than 64 KiB, or an object of which no key is named.
        """
        return self._reading.read(name, self._fetch)

    def _fetch(self, name: str) -> object:
        secret, key = split(self._prefix + name)
        try:
            found = self._client.get_secret(secret.replace("_", "-"))
        except self._errors.ResourceNotFoundError:
            raise Missing("there is no such secret") from None
        except self._errors.HttpResponseError as error:
            raise Unusable(f"the vault refuses, or says what is no secret ({error.status_code})") from None
        if found.name.lower() != secret.replace("_", "-").lower():
            raise Unusable("the vault has answered with another secret")
        return pick(found.value, key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._reading.source!r})"


def _url_of(vault: str) -> str:
    if isinstance(vault, str) and re.fullmatch(r"[A-Za-z0-9-]{3,24}", vault, re.ASCII):
        return f"https://{vault}.vault.azure.net"
    if isinstance(vault, str) and re.fullmatch(r"https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/?", vault, re.ASCII):
        return vault.rstrip("/")
    raise ConfigurationError("AzureSecrets(vault) is the name of a vault, or https:// and its host")


def _load(module: str) -> Any:
    package = "azure-identity" if module == "azure.identity" else "azure-keyvault-secrets"
    return load_client(module, source="AzureSecrets", package=package, extra="azure")
