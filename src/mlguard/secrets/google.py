"""Secrets from Google Secret Manager."""

import os
import re
from functools import partial
from typing import Any

from pydantic import SecretStr

from mlguard._lookout import OwnLock
from mlguard._numbers import seconds
from mlguard.errors import ConfigurationError
from mlguard.secrets._answers import Missing, Unusable
from mlguard.secrets._json_keys import pick, split
from mlguard.secrets._reading import MAX_ANSWER, Reading, load_client

_PROJECT = re.compile(r"[a-z0-9:.-]{1,64}", re.ASCII)
_NAMES = re.compile(r"[A-Za-z0-9_-]{1,255}(?:#[A-Za-z0-9._-]{0,128})?", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class GoogleSecrets:
    """Secrets from Google Secret Manager. Needs ``pip install 'mlguard[gcp]'``.

    Credentials come from where Google's client looks for them: best from the workload's identity. The service needs the
    role *Secret Manager Secret Accessor*, best on single secrets, and nothing else: nothing is listed. A secret that is
    a JSON object has keys, as ``name#key``; without a key it is refused, and ``name#`` is all of it.

    Args:
        project: The id or the number of the project.
        prefix: Stands before every name.
        version: ``latest``, a number, or an alias.
        timeout: Seconds that one read may take in all, at most 60.
        endpoint: Another host than ``secretmanager.googleapis.com``, such as that of a region.
        client: A ``SecretManagerServiceClient`` of your own. None: one is made at the first read.

    Raises:
        ConfigurationError: Google's client is not installed, or an argument cannot work.
    """

    def __init__(
        self,
        project: str,
        *,
        prefix: str = "",
        version: str = "latest",
        timeout: float = 5.0,
        endpoint: str | None = None,
        client: Any = None,
    ) -> None:
        self._timeout = seconds("GoogleSecrets(timeout=...)", timeout, most=60)
        if not isinstance(project, str) or not _PROJECT.fullmatch(project):
            raise ConfigurationError("GoogleSecrets(project) is the id or the number of a project")
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise ConfigurationError('GoogleSecrets(version=...) is "latest", a number as text, or an alias')
        self._errors = _load("google.api_core.exceptions")
        self._manager = _load("google.cloud.secretmanager_v1")
        self._project = project
        self._prefix = prefix
        self._version = version
        self._endpoint = endpoint
        self._client = client
        self._process = -1 if client is None else 0  # that made the client; 0: it was given
        self._making = OwnLock()
        self._reading = Reading(f"gcp://{project}/{prefix}", names=_NAMES, timeout=self._timeout)

    def read(self, name: str) -> SecretStr:
        """The payload of a secret, or of one key of it, as ``name#key``.

        Raises:
            SecretUnavailableError: There is none or its version is disabled, Google cannot be asked, refuses or does
                not answer in time, or the secret is empty, binary, larger than 64 KiB, or an object of which no key
                is named.
        """
        return self._reading.read(name, self._fetch)

    def _fetch(self, name: str) -> object:
        secret, key = split(self._prefix + name)
        path = f"projects/{self._project}/secrets/{secret}/versions/{self._version}"
        try:
            answer = self._connected().access_secret_version(name=path, timeout=self._timeout, retry=None)
        except self._errors.NotFound:
            raise Missing("there is no such secret, or no such version of it") from None
        except self._errors.GoogleAPICallError as error:
            raise Unusable(f"Google refuses or cannot be reached ({type(error).__name__})") from None
        # The project may be asked for by its id and answered by its number.
        if f"/secrets/{secret}/versions/" not in answer.name:
            raise Unusable("Google has answered with another secret")
        return pick(answer.payload.data, key)

    def _connected(self) -> Any:
        """The client, made when a process first needs it.

        That may ask the machine who it is, which takes a while; and gRPC does not outlive a fork.
        """
        with self._making:
            if self._process not in {0, os.getpid()}:
                maker = self._manager.SecretManagerServiceClient
                transport = maker.get_transport_class("grpc")

                def connect(*arguments: Any, **options: Any) -> Any:
                    limits = [("grpc.max_receive_message_length", MAX_ANSWER)]  # by default there is none
                    return transport.create_channel(*arguments, **{**options, "options": limits})

                where = {"api_endpoint": self._endpoint} if self._endpoint else None
                self._client = maker(transport=partial(transport, channel=connect), client_options=where)
                self._process = os.getpid()
            return self._client

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._reading.source!r})"


def _load(module: str) -> Any:
    return load_client(module, source="GoogleSecrets", package="google-cloud-secret-manager", extra="gcp")
