"""Secrets from HashiCorp Vault or OpenBao: the key-value engine, version 2."""

import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mlguard._lookout import OwnLock
from mlguard._numbers import seconds
from mlguard.errors import ConfigurationError
from mlguard.secrets._answers import Missing, Unusable
from mlguard.secrets._files import read_secret_file
from mlguard.secrets._http import open_session
from mlguard.secrets._json_keys import choose, split
from mlguard.secrets._reading import NAMES, Reading, load_client

#: Where Kubernetes mounts the token of a pod's service account.
KUBERNETES_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105  # a path

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<place>(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?)/?", re.ASCII
)
_EARLY = 0.75  # of the life of a token; then there is a login before it ends


class VaultSecrets:
    """Secrets from HashiCorp Vault or OpenBao, engine KV version 2. Needs ``pip install 'mlguard[vault]'``.

    A name is the path of a secret and a key within it: ``iris/prod#token``. Without a key it is ``#value``.

    The service logs in by one of three ways, the last two again when the token's time is nearly over or it no longer
    holds. Its policy needs ``read`` on its own paths, and nothing else. Certificates are always verified, redirects are
    never followed, and neither a proxy nor ``~/.vault-token`` is taken from the surroundings.

    Args:
        url: ``https://vault.internal:8200``. Plain ``http`` only to this machine, such as to a Vault Agent.
        mount: Where the engine is mounted.
        prefix: Stands before every name: ``"iris/"``, or ``"iris#"`` to read the keys of one secret.
        token: A token of the service itself, or the path of a file that an agent renews, as ``os.PathLike``.
        app_role: The role id and the secret id of an AppRole.
        kubernetes_role: The role for the service account of this pod.
        auth_mount: Where the way to log in is mounted. None: ``approle`` or ``kubernetes``.
        kubernetes_token: Where the token of the service account is.
        namespace: Of Vault Enterprise, or OpenBao.
        ca: A file with the certificates that may sign the server's. None: those that ``requests`` brings.
        timeout: Seconds that one read may take in all, login included, at most 60.
        clock: Seconds that only grow.

    Raises:
        ConfigurationError: hvac is not installed, or an argument cannot work. No token is quoted.
    """

    def __init__(
        self,
        url: str,
        *,
        mount: str = "secret",
        prefix: str = "",
        token: str | SecretStr | os.PathLike[str] | None = None,
        app_role: tuple[str, str | SecretStr] | None = None,
        kubernetes_role: str | None = None,
        auth_mount: str | None = None,
        kubernetes_token: str = KUBERNETES_TOKEN,
        namespace: str | None = None,
        ca: str | None = None,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        timeout = seconds("VaultSecrets(timeout=...)", timeout, most=60)
        place = _check_url(url)
        if not isinstance(mount, str) or "#" in mount or not NAMES.fullmatch(mount):
            raise ConfigurationError("VaultSecrets(mount=...) is the path where the engine is mounted, such as secret")
        _check_login(token, app_role, kubernetes_role)
        hvac = load_client("hvac", source="VaultSecrets", package="hvac", extra="vault")
        self._errors = load_client("hvac.exceptions", source="VaultSecrets", package="hvac", extra="vault")
        self._connect = partial(
            hvac.Client,
            url=url,
            verify=ca or True,
            timeout=timeout,
            allow_redirects=False,
            session=open_session(source="VaultSecrets", extra="vault", ca=ca),
            namespace=namespace,
        )
        self._mount = mount
        self._prefix = prefix
        self._token = _hidden(token)
        self._app_role = app_role and (app_role[0], _hidden(app_role[1]))
        self._kubernetes_role = kubernetes_role
        self._kubernetes_token = kubernetes_token
        self._auth_mount = auth_mount
        self._clock = clock
        self._client: Any = None
        self._until = float("-inf")
        self._one_login = OwnLock()
        self._reading = Reading(f"vault://{place}/{mount}/{prefix}", timeout=timeout)

    def read(self, name: str) -> SecretStr:
        """The text under a key of a secret, as ``path#key``, in its latest version.

        Raises:
            SecretUnavailableError: There is none or it was deleted, Vault is sealed, cannot be asked, refuses or does
                not answer in time, or what stands there is empty, no text or larger than 64 KiB.
        """
        return self._reading.read(name, self._fetch)

    def _fetch(self, name: str) -> object:
        path, key = split(self._prefix + name)
        try:
            answer = self._answer_to(path)
        except self._errors.InvalidPath:
            raise Missing("there is no such secret, or it was deleted") from None
        except self._errors.VaultError as error:
            raise Unusable(f"Vault refuses ({type(error).__name__})") from None
        found = _member(_member(answer, "data"), "data")
        if not isinstance(found, dict):
            raise Unusable("what Vault has said is no secret of the engine KV version 2")
        return choose(found, "value" if key is None else key)

    def _answer_to(self, path: str) -> Any:
        client = self._logged_in()
        try:
            return self._ask(client, path)
        except self._errors.Forbidden:  # the token may have been revoked
            return self._ask(self._logged_in(instead_of=client), path)

    def _ask(self, client: Any, path: str) -> Any:
        return client.secrets.kv.v2.read_secret_version(
            path=path, mount_point=self._mount, raise_on_deleted_version=True
        )

    def _logged_in(self, instead_of: Any = None) -> Any:
        """A client with a token that holds for a while yet.

        Args:
            instead_of: One whose token holds no more. If another thread has logged in meanwhile, there is a new one.
        """
        if self._token is not None:
            return self._connect(token=_text(self._token))
        with self._one_login:
            if self._client is None or self._client is instead_of or self._clock() >= self._until:
                began = self._clock()
                auth = _member(self._login(), "auth")
                token, lease = _member(auth, "client_token"), _member(auth, "lease_duration")
                if not isinstance(token, str) or not token:
                    raise Unusable("what Vault has said to the login is no token")
                self._client = self._connect(token=token)
                self._until = began + _EARLY * lease if isinstance(lease, int) and lease > 0 else float("inf")
            return self._client

    def _login(self) -> Any:
        # An empty token, because without one hvac looks into the environment and the home directory.
        ways = self._connect(token="").auth
        if self._app_role is not None:
            role, secret = self._app_role
            return ways.approle.login(
                role_id=role, secret_id=_text(secret), use_token=False, mount_point=self._auth_mount or "approle"
            )
        return ways.kubernetes.login(
            role=self._kubernetes_role,
            jwt=_text(Path(self._kubernetes_token)),
            use_token=False,
            mount_point=self._auth_mount or "kubernetes",
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._reading.source!r})"


def _member(answer: object, name: str) -> object:
    return answer.get(name) if isinstance(answer, dict) else None


def _check_login(token: object, app_role: object, kubernetes_role: object) -> None:
    given = [way for way in (token, app_role, kubernetes_role) if way is not None]
    if len(given) != 1:
        raise ConfigurationError("VaultSecrets needs one of token=, app_role=(role_id, secret_id) and kubernetes_role=")
    if app_role is not None and not (isinstance(app_role, tuple) and len(app_role) == 2):
        raise ConfigurationError("VaultSecrets(app_role=...) is (role_id, secret_id)")
    parts = app_role if isinstance(app_role, tuple) else given
    if not all(part and isinstance(part, str | SecretStr | os.PathLike) for part in parts):
        raise ConfigurationError("VaultSecrets: a token, a role and a secret id are text, and not empty")


def _check_url(url: str) -> str:
    """The place in a URL that may be asked for secrets."""
    found = _URL.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        raise ConfigurationError("VaultSecrets(url) is https://host:port, without a path or a credential")
    if found["scheme"] == "http" and found["host"] not in {"localhost", "127.0.0.1", "[::1]"}:
        raise ConfigurationError("VaultSecrets(url): a token may not travel without TLS; use https://")
    return found["place"]


def _hidden(secret: Any) -> Any:
    return SecretStr(secret) if isinstance(secret, str) else secret


def _text(secret: SecretStr | os.PathLike[str]) -> str:
    if isinstance(secret, SecretStr):
        return secret.get_secret_value()
    return read_secret_file(os.fspath(secret)).decode().strip()
