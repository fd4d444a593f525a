"""What is read from the environment."""

import ast
import json
import logging
import pickle
import pprint
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st

from mlguard import (
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    DirectorySecrets,
    EnvironmentSecrets,
    SecretUnavailableError,
    harden,
    require_api_key,
    secret_source,
)
from mlguard import settings as settings_module
from mlguard.settings import Settings, load_settings
from mlguard.store import default_store
from tests.asgi import call
from tests.test_hardening import lifespan

SECRET = "Vq3tYxw0ZkLr8HcNpB5uJd2eSgF7aKmQ"
NAMES = [f"MLGUARD_{name.upper()}" for name in Settings.model_fields]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests run where there is no .env, and nothing was said of one."""
    monkeypatch.chdir(tmp_path)
    settings_module._tell_of_dotenv.cache_clear()
    yield
    settings_module._tell_of_dotenv.cache_clear()


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


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*Settings.model_fields} - {"api_keys", "api_keys_file"}))
def test_every_value_may_be_in_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLGUARD_X_FILE names a file with the value of MLGUARD_X, and a line end behind it is no part of it."""
    value = "development" if name == "env" else SECRET
    (tmp_path / "value").write_text(value + "\n")
    monkeypatch.setenv(f"MLGUARD_{name.upper()}_FILE", str(tmp_path / "value"))
    found = getattr(load_settings(), name)
    assert (found if isinstance(found, str) else found.get_secret_value()) == value
    monkeypatch.setenv(f"MLGUARD_{name.upper()}", value)
    with pytest.raises(ConfigurationError, match=rf"MLGUARD_{name.upper()} and MLGUARD_{name.upper()}_FILE are both"):
        load_settings()


def test_the_file_of_keys_is_one_of_its_own_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLGUARD_API_KEYS_FILE is the file that is watched, and nothing reads it as the value of MLGUARD_API_KEYS."""
    monkeypatch.setenv("MLGUARD_API_KEYS_FILE", "/no/such/keys.toml")
    monkeypatch.setenv("MLGUARD_API_KEYS_FILE_FILE", "/no/such/file")
    monkeypatch.setenv("MLGUARD_API_KEYS", SECRET)
    settings = load_settings()
    assert settings.api_keys_file == "/no/such/keys.toml"
    assert settings.api_keys.get_secret_value() == SECRET
    with pytest.raises(ConfigurationError, match="MLGUARD_API_KEYS and MLGUARD_API_KEYS_FILE are both set"):
        APIKeyAuth(require_api_key._keys).check()


@pytest.mark.parametrize("content", [None, b"\xff\xfe" + SECRET.encode(), b"x" * 70_000])
def test_files_that_cannot_be_used(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there, is no text, or is too large, stops everything; nothing of it is quoted."""
    if content is not None:
        (tmp_path / "value").write_bytes(content)
    monkeypatch.setenv("MLGUARD_STORE_URL_FILE", str(tmp_path / "value"))
    with pytest.raises(ConfigurationError, match="MLGUARD_STORE_URL") as error:
        default_store()
    assert SECRET not in "".join(traceback.format_exception(error.value))
    assert "xxx" not in str(error.value)


def test_no_part_of_a_large_file_is_taken_for_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is cut off would be sent to somebody."""
    (tmp_path / "value").write_bytes(b"x" * 70_000)
    monkeypatch.setenv("MLGUARD_VAULT_TOKEN_FILE", str(tmp_path / "value"))
    with pytest.raises(ConfigurationError, match=r"MLGUARD_VAULT_TOKEN_FILE names a file .*: it is larger than"):
        load_settings()


@pytest.mark.parametrize("path", ["", "/", "\0" * 3, "x" * 5000])
def test_paths_that_are_none(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that names no file is not one that is unset."""
    monkeypatch.setattr("os.environ", {"MLGUARD_ENV_FILE": path})
    with pytest.raises(ConfigurationError, match="MLGUARD_ENV_FILE names a file that cannot be used"):
        load_settings()


# .env -----------------------------------------------------------------------------------------------------------------


def test_dotenv_is_for_development(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In development .env is read, after the environment; it may name files."""
    (tmp_path / "url").write_text("memory://from-a-file")
    (tmp_path / ".env").write_text(f"MLGUARD_API_KEYS={SECRET}\nMLGUARD_STORE_URL_FILE={tmp_path}/url\nOTHER=1\n")
    monkeypatch.setenv("MLGUARD_ENV", "development")
    settings = load_settings()
    assert settings.api_keys.get_secret_value() == SECRET
    assert settings.store_url.get_secret_value() == "memory://from-a-file"
    monkeypatch.setenv("MLGUARD_STORE_URL", "memory://")
    assert load_settings().store_url.get_secret_value() == "memory://"


def test_dotenv_does_not_turn_itself_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A .env that somebody has left or put there changes nothing in production: one line in the log says so, once."""
    (tmp_path / ".env").write_text(f"export MLGUARD_ENV=development\nMLGUARD_API_KEYS={SECRET}\n")
    for _ in range(3):
        settings = load_settings()
        assert (settings.env, settings.api_keys.get_secret_value()) == ("production", "")
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert ".env has settings of mlguard, and is not read" in line.getMessage()
    assert SECRET not in caplog.text


def test_a_dotenv_of_others_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However large it is, and whatever is in it: no more than its beginning is looked at, once."""
    with (tmp_path / ".env").open("wb") as file:
        file.write(b"\n" * 100_000 + b"MLGUARD_ENV=development\n")
        file.truncate(2**36)  # a hole: 64 GiB
    assert load_settings().env == "production"
    assert not caplog.records


def test_dotenv_of_others_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A .env without settings of mlguard, or one that cannot be looked at, is nobody's business here."""
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite://\n# MLGUARD_ENV=development\n")
    assert load_settings().env == "production"
    settings_module._tell_of_dotenv.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(PermissionError(13, "no")))
        assert load_settings().env == "production"
    assert caplog.records == []


def test_a_dotenv_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .env that cannot be read stops everything, without a byte of it in the error."""
    (tmp_path / ".env").write_bytes(b"MLGUARD_API_KEYS=\xff\xfe" + SECRET.encode())
    monkeypatch.setenv("MLGUARD_ENV", "development")
    with pytest.raises(ConfigurationError, match=r"\.env cannot be read") as error:
        load_settings()
    assert SECRET not in "".join(traceback.format_exception(error.value))
    assert error.value.__context__ is None


# Where secrets come from ----------------------------------------------------------------------------------------------


def test_secrets_come_from_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment does not have is read from the source, what that does not have either is the default."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("MLGUARD_SECRETS", f"dir://{folder}")
    (folder / "MLGUARD_API_KEYS").write_text(f"alice={SECRET};predict\n")
    assert APIKeys.from_env().find(SECRET.encode()) is not None
    assert type(default_store()).__name__ == "MemoryStore"
    monkeypatch.setenv("MLGUARD_API_KEYS", "alice=" + SECRET[::-1])
    assert APIKeys.from_env().find(SECRET.encode()) is None


def test_a_source_that_cannot_be_asked_is_no_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody knows whether there is a store or a key, nothing is built: an outage opens no door."""
    monkeypatch.setenv("MLGUARD_SECRETS", f"dir://{tmp_path}/not-mounted")
    for build in (default_store, APIKeys.from_env):
        with pytest.raises(ConfigurationError, match="cannot be read from dir:"):
            build()
    assert load_settings().env == "production"  # what is no secret does not ask


def test_a_secret_that_is_empty_is_no_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty file for the store's URL does not mean memory."""
    monkeypatch.setenv("MLGUARD_SECRETS", f"dir://{tmp_path}")
    (tmp_path / "MLGUARD_STORE_URL").write_text("\n")
    with pytest.raises(ConfigurationError, match=r"MLGUARD_STORE_URL cannot be read from dir:.*it is empty"):
        default_store()


def test_the_source_is_checked_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """``harden`` finds a typo in MLGUARD_SECRETS, and does not quote it."""
    monkeypatch.setenv("MLGUARD_SECRETS", f"vault://root:{SECRET}@vault.internal/secret")
    with pytest.raises(ConfigurationError, match="MLGUARD_SECRETS is env:, dir:") as error:
        harden(FastAPI())
    assert SECRET not in "".join(traceback.format_exception(error.value))


def test_a_missing_key_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service whose source has no keys does not come up."""
    monkeypatch.setenv("MLGUARD_SECRETS", f"dir://{tmp_path}")
    app = FastAPI(dependencies=[Depends(APIKeyAuth(require_api_key._keys))])
    harden(app)

    @app.get("/")
    def root() -> None:
        """Answer nothing."""

    failed, raised = lifespan(app)
    assert failed["type"] == "lifespan.startup.failed"
    assert "MLGUARD_API_KEYS is not set" in failed["message"]
    assert raised


def test_a_source_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may take its own secrets from the same place, or from another one."""
    assert isinstance(secret_source(), EnvironmentSecrets)
    (tmp_path / "token").write_text(SECRET)
    assert secret_source(f"dir://{tmp_path}").read("token").get_secret_value() == SECRET
    monkeypatch.setenv("MLGUARD_SECRETS", f"dir://{tmp_path}")
    assert isinstance(secret_source(), DirectorySecrets)
    with pytest.raises(SecretUnavailableError):
        secret_source().read("other")


def test_vault_gets_its_token_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens the vault comes from the environment or a file; it cannot be in the vault."""
    pytest.importorskip("hvac")
    (tmp_path / "token").write_text(SECRET)
    monkeypatch.setenv("MLGUARD_VAULT_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("MLGUARD_SECRETS", "vault://vault.internal:8200/secret/iris#")
    assert repr(secret_source()) == "VaultSecrets('vault://vault.internal:8200/secret/iris#')"
    assert repr(secret_source("vault://vault.internal:8200/kv/")) == "VaultSecrets('vault://vault.internal:8200/kv/')"
    monkeypatch.delenv("MLGUARD_VAULT_TOKEN_FILE")
    monkeypatch.setenv("MLGUARD_VAULT_SECRET_ID", SECRET)
    assert SECRET not in repr(vars(secret_source("vault://vault.internal:8200/kv/?role_id=iris")))
    with pytest.raises(ConfigurationError, match="VaultSecrets needs one of"):
        secret_source()


# Nothing leaks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a secret wherever one may be."""
    for name in ("SECRETS", "API_KEYS", "STORE_URL", "VAULT_TOKEN", "VAULT_SECRET_ID"):
        monkeypatch.setenv(f"MLGUARD_{name}", f"x://user:{SECRET}@host")
    return load_settings()


def test_no_form_of_settings_shows_a_secret(full: Settings) -> None:
    """Neither repr nor str nor JSON nor a format nor a schema of settings has a secret."""
    shown = [repr(full), str(full), f"{full!r:>300}", full.model_dump_json(), repr(full.model_dump()), repr(vars(full))]
    shown += [json.dumps(Settings.model_json_schema()), repr(list(full)), repr(dict(full)), repr(full.model_copy())]
    shown += ["%s" % full, pprint.pformat(full), pprint.pformat(vars(full))]  # noqa: UP031  # that too
    assert not [text for text in shown if SECRET in text]
    assert SECRET in pickle.dumps(full).decode("latin-1")  # a pickle is a copy: for another process of the service


def test_an_endpoint_shows_no_secret_and_lets_nobody_set_one(full: Settings) -> None:
    """Settings as a dependency take nothing from the caller, and as an answer show nothing; OpenAPI knows no value."""
    app = FastAPI()

    @app.get("/settings")
    def show(settings: Annotated[Settings, Depends(Settings)]) -> Any:
        return settings

    @app.get("/loaded", response_model=Settings)
    def loaded(settings: Annotated[Settings, Depends(load_settings)]) -> Any:
        return settings

    for path in ("/settings?env=development&_env_file=/etc/passwd&api_keys=mine", "/loaded?env=development"):
        answer = call(app, path, method="GET")
        assert answer.json["env"] == "production"
        assert SECRET not in answer.body.decode()
        assert b"mine" not in answer.body
    described = call(app, "/openapi.json", method="GET").body.decode()
    assert SECRET not in described
    assert "_env_file" not in described


def test_nobody_sets_settings_in_code() -> None:
    """They come from the environment alone."""
    with pytest.raises(TypeError):
        Settings(env="development")  # type: ignore[call-arg]  # that is the test


@pytest.mark.parametrize("name", NAMES)
@given(value=st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=8))
def test_no_value_is_in_an_error(name: str, value: str) -> None:
    """Whatever stands in a variable, what goes wrong with it is told without it."""
    value = f"{SECRET}{value}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", {name: value})
        patch.setattr("mlguard.store._default", None)
        for use in (load_settings, default_store, secret_source, lambda: harden(FastAPI())):
            try:
                use()
            except ConfigurationError as error:
                assert SECRET not in "".join(traceback.format_exception(error))  # noqa: PT017  # either is right
                assert name in str(error)  # noqa: PT017


def test_names_in_lower_case_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As pydantic-settings reads them; no other spelling is known."""
    monkeypatch.setenv("mlguard_env", "development")
    assert load_settings().env == "development"


def test_two_spellings_that_differ_stop_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it depended on the order of the environment whether this is production. Variables of others may differ."""
    monkeypatch.setattr("os.environ", {"MLGUARD_ENV": "production", "mlguard_env": "development"})
    with pytest.raises(ConfigurationError, match="MLGUARD_ENV is set twice"):
        load_settings()
    monkeypatch.setattr("os.environ", {"MLGUARD_ENV": "production", "mlguard_env": "production", "a": "1", "A": "2"})
    assert load_settings().env == "production"


def test_import_reads_nothing() -> None:
    """Importing mlguard works with an environment in which nothing works, and imports no client of a store."""
    code = (
        "import mlguard, sys; "
        "assert not {'boto3', 'botocore', 'azure', 'google.cloud', 'grpc', 'hvac', 'requests'} & set(sys.modules)"
    )
    environment = dict.fromkeys(NAMES, "no such value") | {f"{name}_FILE": "/no/such" for name in NAMES}
    path = ":".join(sys.path)
    environment["PYTHONPATH"] = path
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_field_is_not_asked_for_alone() -> None:
    """The source of pydantic-settings reads all fields in one look."""
    with pytest.raises(NotImplementedError):
        settings_module._Variables(Settings).get_field_value(Settings.model_fields["env"], "env")


def test_nothing_else_reads_the_environment() -> None:
    """Settings are named in one place: other modules read variables whose names their callers gave, or a server's."""
    source = Path(settings_module.__file__).parent
    reading = {"environ", "environb", "getenv", "getenvb"}
    readers = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in reading
    }
    callers = {"secrets/environment.py", "auth/api_keys.py", "commands/_model_encryption.py"}
    assert readers == {"settings.py", "_workers.py", "monitoring/prometheus_metrics.py"} | callers


def test_no_frame_of_an_error_holds_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of crashes show the variables of each function: those of settings have no value either."""
    monkeypatch.setenv("MLGUARD_API_KEYS", SECRET)
    monkeypatch.setenv("MLGUARD_STORE_URL", SECRET)
    monkeypatch.setenv("MLGUARD_STORE_URL_FILE", "/run/secrets/store")
    with pytest.raises(ConfigurationError) as error:
        load_settings()
    frames = [frame for frame, _ in traceback.walk_tb(error.value.__traceback__)][1:]  # the first is this test
    assert frames
    assert SECRET not in repr([frame.f_locals for frame in frames])
