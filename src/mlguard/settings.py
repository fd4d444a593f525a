"""Configuration from the environment, named in one place."""

import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from mlguard._files import open_regular
from mlguard.errors import ConfigurationError, SecretNotFoundError, SecretUnavailableError
from mlguard.problems import logger
from mlguard.secrets._files import read_secret_text
from mlguard.secrets.from_url import source_from_url
from mlguard.secrets.source import SecretSource

_PREFIX = "MLGUARD_"
#: ``MLGUARD_API_KEYS_FILE`` names a file of its own kind, which is watched, and not a file with this value.
_NOT_BY_FILE = frozenset({"api_keys", "api_keys_file"})
_DOTENV = ".env"
_OURS = re.compile(rb"^[ \t]*(?:export[ \t]+)?MLGUARD_", re.MULTILINE | re.IGNORECASE)
_LOOKED_AT = 65_536  # bytes of a file that is not read for what it says


class Settings(BaseSettings):
    """What mlguard reads from the environment. Building one reads it.

    Each is also read from the file that ``<variable>_FILE`` names; both at once are an error. ``.env`` in the working
    directory is read in development only, and what the environment says comes first.

    Attributes:
        env: ``MLGUARD_ENV``: ``production`` (the default) or ``development``, which turns the documentation pages on.
        secrets: ``MLGUARD_SECRETS``: where secrets come from that the environment does not have, ``env:`` by default.
        api_keys: ``MLGUARD_API_KEYS``: the keys for ``APIKeys.from_env()``.
        api_keys_file: ``MLGUARD_API_KEYS_FILE``: the file that ``APIKeys.from_file()`` and ``mlguard keys`` use.
        store_url: ``MLGUARD_STORE_URL``: where guards count and remember that were not given a store, ``memory://`` by
            default.
        audit_log: ``MLGUARD_AUDIT_LOG``: the folder of the audit log of ``AuditLog.from_settings()`` and of commands.
        audit_key: ``MLGUARD_AUDIT_KEY``: the secret that chains it, and behind commas those before.
        model_key: ``MLGUARD_MODEL_KEY``: the key with which ``mlguard model`` encrypts and decrypts.
        webhook_secret: ``MLGUARD_WEBHOOK_SECRET``: the secret with which a ``Webhook`` signs that was given none.
        vault_token: ``MLGUARD_VAULT_TOKEN``: for ``vault://`` in ``MLGUARD_SECRETS``.
        vault_secret_id: ``MLGUARD_VAULT_SECRET_ID``: for ``vault://…?role_id=…`` in ``MLGUARD_SECRETS``.

    Raises:
        ConfigurationError: A variable has a value that cannot work. The text names the variable, never its value.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", hide_input_in_errors=True)

    env: Literal["production", "development"] = "production"
    secrets: SecretStr = SecretStr("env:")  # until it has been looked at, it may hold a password
    api_keys: SecretStr = SecretStr("")
    api_keys_file: str = ""
    store_url: SecretStr = SecretStr("memory://")  # it may hold a password
    audit_log: str = ""
    audit_key: SecretStr = SecretStr("")
    model_key: SecretStr = SecretStr("")
    webhook_secret: SecretStr = SecretStr("")
    vault_token: SecretStr | None = None
    vault_secret_id: SecretStr | None = None

    # No arguments: whoever has it as a FastAPI dependency would let callers set them.
    def __init__(self) -> None:
        try:
            super().__init__()
            return
        except ValidationError as error:
            wrong = ", ".join(f"{_variable(str(one['loc'][0]))} ({one['msg']})" for one in error.errors())
        except ConfigurationError as error:
            wrong = str(error)
        # Raised out here, because those errors hold values, or have them in the frames of their tracebacks.
        raise ConfigurationError(f"the environment cannot be used: {wrong}")

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *_: PydanticBaseSettingsSource, **__: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read variables, and the files that they name."""
        return (_Variables(settings_cls),)

    def source(self) -> SecretSource:
        """Where secrets come from, as ``MLGUARD_SECRETS`` says. It is not asked yet.

        Raises:
            ConfigurationError: It is not the URL of a source, or its package is not installed.
        """
        return source_from_url(
            self.secrets.get_secret_value(),
            where="MLGUARD_SECRETS",
            vault_token=self.vault_token,
            vault_secret_id=self.vault_secret_id,
        )

    def secret(self, name: Literal["api_keys", "store_url", "model_key", "audit_key", "webhook_secret"]) -> SecretStr:
        """A setting that is a secret: from the environment, else from where secrets come from, else the default.

        Blocks while the source is asked, which happens when guards are built.

        Raises:
            ConfigurationError: The source cannot be asked, or has something that is no secret. Only of what it says
                it does not have is the default taken.
        """
        value: SecretStr = getattr(self, name)
        if name in self.model_fields_set or self.secrets.get_secret_value() == "env:":
            return value
        try:
            return self.source().read(_variable(name))
        except SecretNotFoundError:
            return value
        except SecretUnavailableError as error:
            raise ConfigurationError(str(error)) from None


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        ConfigurationError: A variable has a value that cannot work. The text names the variable, never its value.
    """
    return Settings()


def secret_source(url: str | None = None) -> SecretSource:
    """Where secrets come from.

    Args:
        url: ``env:``, ``dir:///run/secrets``, ``aws://region/prefix``, ``azure://vault-name``, ``gcp://project`` or
            ``vault://host:port/mount/prefix``. None: what ``MLGUARD_SECRETS`` says, by default ``env:``. The classes,
            such as :class:`~mlguard.VaultSecrets`, take more than can be written into a URL.

    Raises:
        ConfigurationError: It is not the URL of a source, or the package of that source is not installed.
    """
    settings = load_settings()
    if url is None:
        return settings.source()
    return source_from_url(
        url,
        where="secret_source(url)",
        vault_token=settings.vault_token,
        vault_secret_id=settings.vault_secret_id,
    )


class _Variables(PydanticBaseSettingsSource):
    """``MLGUARD_X``, or the content of the file that ``MLGUARD_X_FILE`` names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: a value is looked up with the others."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """The values of all settings that are set."""
        values = self._read(os.environ)
        if values.get("env") != "development":
            _tell_of_dotenv()
            return values
        try:
            dotenv = DotEnvSettingsSource(self.settings_cls, env_file=_DOTENV, env_file_encoding="utf-8").env_vars
        except (OSError, ValueError):
            dotenv = None
        if dotenv is None:
            raise ConfigurationError(f"{_DOTENV} cannot be read, or is not UTF-8")
        return {**self._read(dotenv), **values}

    def _read(self, variables: Mapping[str, str | None]) -> dict[str, Any]:
        folded: dict[str, str] = {}
        for name, value in variables.items():
            known = name.upper()
            if value is None or not known.startswith(_PREFIX):
                continue
            if folded.setdefault(known, value) != value:  # which one holds would depend on their order
                raise ConfigurationError(f"{known} is set twice, in capitals and in other letters; keep one of them")
        values: dict[str, Any] = {}
        for name in self.settings_cls.model_fields:
            variable = _variable(name)
            given = folded.get(variable)
            path = None if name in _NOT_BY_FILE else folded.get(f"{variable}_FILE")
            if path is not None:
                if given is not None:
                    raise ConfigurationError(f"{variable} and {variable}_FILE are both set; keep one of them")
                given = read_secret_text(path, where=f"{variable}_FILE")
            if given is not None:
                values[name] = given
        return values


def _variable(name: str) -> str:
    return f"{_PREFIX}{name.upper()}"


@cache  # once in a process
def _tell_of_dotenv() -> None:
    """Say that ``.env`` is not read in production, if there is one that somebody may rely on."""
    try:
        with open_regular(_DOTENV) as file:
            content = file.read(_LOOKED_AT)
    except (OSError, ConfigurationError):  # there is none, or it is something else
        return
    if _OURS.search(content):
        logger.warning(
            "%s has settings of mlguard, and is not read: it is for MLGUARD_ENV=development only, which must be set "
            "in the environment itself",
            _DOTENV,
        )
