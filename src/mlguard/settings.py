"""Configuration from the environment, named in one place."""

from typing import Literal

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mlguard.errors import ConfigurationError


class Settings(BaseSettings):
    """What mlguard reads from the environment besides keys.

    Attributes:
        env: ``MLGUARD_ENV``: ``production`` (the default) or ``development``, which turns the documentation pages on.
        api_keys_file: ``MLGUARD_API_KEYS_FILE``: the file that ``APIKeys.from_file()`` and ``mlguard keys`` use.
        store_url: ``MLGUARD_STORE_URL``: where guards count and remember that were not given a store, ``memory://`` by
            default.
        model_key: ``MLGUARD_MODEL_KEY``: the key with which ``mlguard model`` encrypts and decrypts.
    """

    model_config = SettingsConfigDict(env_prefix="MLGUARD_", extra="ignore")

    env: Literal["production", "development"] = "production"
    api_keys_file: str = ""
    store_url: SecretStr = SecretStr("memory://")  # it may hold a password
    model_key: SecretStr = SecretStr("")


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        ConfigurationError: A variable has a value that cannot work. The text names the variable, never its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = ", ".join(f"MLGUARD_{'_'.join(map(str, one['loc'])).upper()} ({one['msg']})" for one in error.errors())
    # Raised out here, because that error holds the value and would come along as the context.
    raise ConfigurationError(f"the environment cannot be used: {wrong}")
