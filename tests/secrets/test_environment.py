"""Secrets from variables, and from the files that variables name."""

import os
from pathlib import Path

import pytest
from tests.secrets.servers import SECRET

from mlguard import EnvironmentSecrets, SecretNotFoundError, SecretSource, SecretUnavailableError

source = EnvironmentSecrets()


def test_a_variable_or_the_file_that_another_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of NAME, or the content of the file in NAME_FILE as it is now."""
    assert isinstance(source, SecretSource)
    monkeypatch.setenv("TOKEN", SECRET)
    assert source.read("TOKEN").get_secret_value() == SECRET
    monkeypatch.delenv("TOKEN")
    file = tmp_path / "token"
    file.write_text(SECRET + "\n")
    monkeypatch.setenv("TOKEN_FILE", str(file))
    assert source.read("TOKEN").get_secret_value() == SECRET
    file.write_text("another one")
    assert source.read("TOKEN").get_secret_value() == "another one"


def test_neither_and_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that is nowhere is not found, and of two nobody knows which is meant."""
    with pytest.raises(SecretNotFoundError, match="neither TOKEN nor TOKEN_FILE is set"):
        source.read("TOKEN")
    monkeypatch.setenv("TOKEN", SECRET)
    monkeypatch.setenv("TOKEN_FILE", "/run/secrets/token")
    with pytest.raises(SecretUnavailableError, match="TOKEN and TOKEN_FILE are both set"):
        source.read("TOKEN")


@pytest.mark.parametrize("value", ["", " ", "<html>", "\udce9"])
def test_what_is_no_secret(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable is not one that is unset: somebody meant to give a secret."""
    monkeypatch.setenv("TOKEN", value)
    with pytest.raises(SecretUnavailableError) as error:
        source.read("TOKEN")
    assert not isinstance(error.value, SecretNotFoundError)


def test_a_secret_in_the_place_of_its_name_is_not_quoted() -> None:
    """Whoever passes os.environ["TOKEN"] does not find the secret in the log."""
    for name in (SECRET + "=", "a-b", "", "A" * 101):
        with pytest.raises(SecretUnavailableError, match="no name of a secret") as error:
            source.read(name)
        assert SECRET not in str(error.value)


@pytest.mark.parametrize("path", ["", "/no/such/file", "/", "\0", "x" * 5000])
def test_files_that_are_none(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there, is no file or has no name is an error, and no empty secret."""
    monkeypatch.setattr(os, "environ", {"TOKEN_FILE": path})
    with pytest.raises(SecretUnavailableError):
        source.read("TOKEN")


def test_it_has_a_repr() -> None:
    """The repr shows nothing of the environment."""
    assert repr(source) == "EnvironmentSecrets()"
