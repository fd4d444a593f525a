"""What is read from the environment."""

import traceback

import pytest

from mlguard.errors import ConfigurationError
from mlguard.settings import load_settings


def test_production_is_the_default() -> None:
    """Without a word from the operator, it is production."""
    assert load_settings().env == "production"


@pytest.mark.parametrize("env", ["production", "development"])
def test_environment_is_read(env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLGUARD_ENV is one of two words, and other variables do not matter."""
    monkeypatch.setenv("MLGUARD_ENV", env)
    monkeypatch.setenv("MLGUARD_SOMETHING_ELSE", "1")
    monkeypatch.setenv("ENV", "staging")
    assert load_settings().env == env


@pytest.mark.parametrize(
    "value",
    ["", " ", "Development", "dev", "DEVELOPMENT", "development ", "prod", "1", "true", "Vq3tYxw0ZkLr8HcN\udce9"],
)
def test_other_values_stop_everything(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo is neither production nor development: the error names the variable, not the value."""
    monkeypatch.setenv("MLGUARD_ENV", value)
    with pytest.raises(ConfigurationError, match="MLGUARD_ENV") as error:
        load_settings()
    if len(value) > 12:
        assert value[:12] not in "".join(traceback.format_exception(error.value))
        assert error.value.__context__ is None


def test_error_names_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote a typo reads what could have been meant."""
    monkeypatch.setenv("MLGUARD_ENV", "Production")
    with pytest.raises(ConfigurationError, match="'production' or 'development'"):
        load_settings()
