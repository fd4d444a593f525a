"""Secrets from AWS Secrets Manager."""

import os
from typing import Any

from pydantic import SecretStr

from mlguard._lookout import OwnLock
from mlguard._numbers import seconds
from mlguard.errors import ConfigurationError
from mlguard.secrets._answers import Missing, Unusable
from mlguard.secrets._json_keys import pick, split
from mlguard.secrets._reading import MAX_ANSWER, Reading, load_client


class AWSSecrets:
    """Secrets from AWS Secrets Manager. Needs ``pip install 'mlguard[aws]'``.

    Credentials come from where boto3 looks for them: best from the role of the task, the pod or the instance. The
    service needs ``secretsmanager:GetSecretValue`` on its own secrets, and nothing else.

    A secret whose text is a JSON object, which is what the console makes, has keys: ``prod/iris#token``. Without a key
    such a secret is refused; ``prod/iris#`` is all of it. A binary secret is refused.

    Args:
        region: Such as ``eu-central-1``. None: as boto3 finds it.
        prefix: Stands before every name: ``"prod/"``, or ``"prod/iris#"`` to read the keys of one secret.
        stage: The version: ``AWSCURRENT``, ``AWSPREVIOUS``, or a label of your own.
        timeout: Seconds that one read may take in all, at most 60.
        session: A ``boto3.Session`` with credentials of its own.
        endpoint: Another URL, such as that of a VPC endpoint.

    Raises:
        ConfigurationError: boto3 is not installed, has no region, or an argument cannot work.
    """

    def __init__(
        self,
        region: str | None = None,
        *,
        prefix: str = "",
        stage: str = "AWSCURRENT",
        timeout: float = 5.0,
        session: Any = None,
        endpoint: str | None = None,
    ) -> None:
        timeout = seconds("AWSSecrets(timeout=...)", timeout, most=60)
        boto3, self._refusal = _load("boto3"), _load("botocore.exceptions").ClientError
        config = _load("botocore.config").Config(
            connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1}
        )
        self._prefix = prefix
        self._stage = stage
        try:
            self._client = (session or boto3.Session()).client(
                "secretsmanager", region_name=region, endpoint_url=endpoint, config=config
            )
        except Exception as error:
            wrong = type(error).__name__
        else:
            wrong = ""
        if wrong:
            raise ConfigurationError(
                f"AWSSecrets: boto3 makes no client ({wrong}); name a region, as in AWSSecrets('eu-central-1')"
            )
        self._client.meta.events.register("before-send.secrets-manager", _Limited(self._client))
        self._reading = Reading(f"aws://{self._client.meta.region_name}/{prefix}", timeout=timeout)

    def read(self, name: str) -> SecretStr:
        """The text of a secret, or of one key of it, as ``name#key``.

        Raises:
            SecretUnavailableError: There is none, AWS cannot be asked or does not answer in time, or the secret is
                empty, binary, larger than 64 KiB, or an object of which no key is named.
        """
        return self._reading.read(name, self._fetch)

    def _fetch(self, name: str) -> object:
        secret, key = split(self._prefix + name)
        try:
            found = self._client.get_secret_value(SecretId=secret, VersionStage=self._stage)
        except self._refusal as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code == "ResourceNotFoundException":
                raise Missing("there is no such secret, or no such version of it") from None
            raise Unusable(f"AWS refuses ({code if code.isalnum() else 'with no reason that is one'})") from None
        if "SecretString" not in found and "SecretBinary" in found:
            raise Unusable("it is binary; keep it as text, in base64 for instance")
        if found.get("Name") != secret and found.get("ARN") != secret and not _is_part_of(secret, found.get("ARN")):
            raise Unusable("AWS has answered with another secret")
        return pick(found.get("SecretString"), key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._reading.source!r})"


def _is_part_of(secret: str, arn: object) -> bool:
    """Whether a secret was asked for by an ARN without its random end."""
    return isinstance(arn, str) and secret.startswith("arn:") and arn.startswith(f"{secret}-")


class _Limited:
    """Sends what boto3 sends, and reads no more of an answer than a secret takes."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._answer = _load("botocore.awsrequest").AWSResponse
        self._process = os.getpid()
        self._forked = OwnLock()

    def __call__(self, request: Any, **_: Any) -> Any:
        request.stream_output = True  # or it would be read whole before anybody sees it
        answer = self._session().send(request)
        body = answer.raw.read(MAX_ANSWER + 1, decode_content=False)
        if len(body) > MAX_ANSWER:
            answer.raw.close()
            raise Unusable(f"AWS has answered with more than {MAX_ANSWER} bytes")
        return self._answer(answer.url, answer.status_code, answer.headers, _Read(body))

    def _session(self) -> Any:
        """What keeps connections, and none that this process has from the one that it was forked from.

        On one that two processes share, each could read what the other has asked for.
        """
        session = self._client._endpoint.http_session
        with self._forked:
            if self._process != os.getpid():
                session.close()
                self._process = os.getpid()
        return session


class _Read:
    """A body that has been read, in the form in which boto3 reads it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> list[bytes]:
        return [self._body]


def _load(module: str) -> Any:
    return load_client(module, source="AWSSecrets", package="boto3", extra="aws")
