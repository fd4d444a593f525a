"""Secrets from AWS Secrets Manager, asked by boto3; moto's server speaks the protocol."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("boto3")
pytest.importorskip("moto")

import boto3  # type: ignore[import-untyped]  # it has no types
from tests.secrets.servers import SECRET, always, secrets_manager, serving

from mlguard import AWSSecrets, ConfigurationError, SecretNotFoundError, SecretUnavailableError


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The URL of moto's server."""
    with secrets_manager() as url:
        yield url


@pytest.fixture(scope="module")
def kept(moto: str) -> dict[str, str]:
    """What is in the store, and its ARNs."""
    client = boto3.client(
        "secretsmanager",
        region_name="eu-central-1",
        endpoint_url=moto,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    texts: dict[str, str] = {
        "prod/plain": SECRET + "\n",
        "prod/iris": json.dumps({"token": SECRET, "number": 7, "empty": "", "list": [SECRET]}),
        "prod/one": json.dumps({"token": SECRET}),
        "prod/empty": " ",
        "prod/page": f"<!DOCTYPE html><p>{SECRET}",
        "prod/large": "x" * 65_537,
    }
    arns = {name: client.create_secret(Name=name, SecretString=text)["ARN"] for name, text in texts.items()}
    client.create_secret(Name="prod/binary", SecretBinary=SECRET.encode())
    client.create_secret(Name="prod/rotated", SecretString="the-old-one")
    client.put_secret_value(SecretId="prod/rotated", SecretString="the-new-one")
    return arns


@pytest.fixture(scope="module")
def source(moto: str, kept: dict[str, str]) -> AWSSecrets:
    """A source with what is kept."""
    session = boto3.Session("testing", "testing", region_name="eu-central-1")
    return AWSSecrets(session=session, endpoint=moto, timeout=30)


def test_texts_and_keys_of_objects(source: AWSSecrets, moto: str) -> None:
    """A plain secret is its text, a key of an object is named behind #, and # alone is the whole text."""
    assert source.read("prod/plain").get_secret_value() == SECRET
    assert source.read("prod/iris#token").get_secret_value() == SECRET
    assert json.loads(source.read("prod/one#").get_secret_value()) == {"token": SECRET}
    keys = AWSSecrets("eu-central-1", endpoint=moto, prefix="prod/iris#")
    assert keys.read("token").get_secret_value() == SECRET
    assert AWSSecrets("eu-central-1", endpoint=moto, prefix="prod/").read("plain").get_secret_value() == SECRET


def test_threads_that_read_at_once(source: AWSSecrets, moto: str, kept: dict[str, str]) -> None:
    """Many reads at once are answered, also the first ones after a fork."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(12) as pool:
        patch.setattr("os.getpid", lambda: 1)
        found = pool.map(lambda _: source.read("prod/plain").get_secret_value(), range(48))
        assert {*found} == {SECRET}


def test_arns_are_names_too(source: AWSSecrets, kept: dict[str, str]) -> None:
    """A secret may be named by its ARN, whole or without the random end."""
    arn = kept["prod/plain"]
    assert source.read(arn).get_secret_value() == SECRET
    assert source.read(arn.rpartition("-")[0]).get_secret_value() == SECRET


def test_versions(moto: str, source: AWSSecrets) -> None:
    """The current version is read, and another one if that is what the source is for."""
    assert source.read("prod/rotated").get_secret_value() == "the-new-one"
    previous = AWSSecrets("eu-central-1", endpoint=moto, stage="AWSPREVIOUS")
    assert previous.read("prod/rotated").get_secret_value() == "the-old-one"
    with pytest.raises(SecretNotFoundError):
        AWSSecrets("eu-central-1", endpoint=moto, stage="none").read("prod/rotated")


@pytest.mark.parametrize("name", ["prod/nothing", "prod/iris#nothing", "iris"])
def test_what_is_not_there(name: str, source: AWSSecrets) -> None:
    """A secret or a key that AWS does not have is told apart from an AWS that cannot be asked."""
    with pytest.raises(SecretNotFoundError, match=f"the secret {name} cannot be read from aws://eu-central-1/"):
        source.read(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("prod/iris", "name one of its keys"),
        ("prod/one", "name one of its keys"),
        ("prod/plain#token", "no JSON object"),
        ("prod/iris#number", "no text"),
        ("prod/iris#list", "no text"),
        ("prod/iris#empty", "empty"),
        ("prod/empty", "empty"),
        ("prod/binary", "binary"),
        ("prod/page", "HTML"),
        ("prod/large", "larger than 65536 bytes"),
    ],
)
def test_what_is_no_secret(name: str, why: str, source: AWSSecrets) -> None:
    """An object of which no key is named, a number, bytes, a page and nothing are not taken for secrets."""
    with pytest.raises(SecretUnavailableError, match=why) as error:
        source.read(name)
    assert not isinstance(error.value, SecretNotFoundError)
    assert SECRET not in str(error.value)


def test_a_refusal_is_told_by_its_code() -> None:
    """The operator reads what AWS refuses, and nothing else that it said."""
    for said, code in (
        ({"__type": "AccessDeniedException", "message": SECRET}, "AccessDeniedException"),
        ({"__type": f"not a code {SECRET}", "message": ""}, "with no reason that is one"),
    ):
        with (
            serving(always(400, said)) as stub,
            pytest.raises(SecretUnavailableError, match=rf"AWS refuses \({code}\)") as error,
        ):
            AWSSecrets("eu-central-1", endpoint=stub.url).read("prod/iris")
        assert SECRET not in str(error.value)


@pytest.mark.parametrize("said", [{}, {"Name": "prod/other", "ARN": "arn:x", "SecretString": SECRET}])
def test_an_answer_for_another_secret_is_none(said: dict[str, Any]) -> None:
    """An answer that is not about what was asked for is refused."""
    with serving(always(200, said)) as stub, pytest.raises(SecretUnavailableError, match="another secret"):
        AWSSecrets("eu-central-1", endpoint=stub.url).read("prod/iris")


def test_no_credentials() -> None:
    """Without credentials nothing is asked, and the error says so."""
    with serving(always(200, {})) as stub, pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(SecretUnavailableError, match="NoCredentialsError"):
            AWSSecrets("eu-central-1", endpoint=stub.url).read("prod/iris")
        assert stub.asked == []


def test_a_session_brings_its_own_credentials(moto: str, kept: dict[str, str]) -> None:
    """A session with a role of its own is used as it is."""
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-central-1")
    source = AWSSecrets(session=session, endpoint=moto, prefix="prod/")
    assert source.read("plain").get_secret_value() == SECRET
    assert repr(source) == "AWSSecrets('aws://eu-central-1/prod/')"


@pytest.mark.parametrize("options", [{}, {"region": "not a region"}, {"region": "eu-central-1", "timeout": 0}])
def test_arguments_that_cannot_work(options: dict[str, Any]) -> None:
    """Without a region, or with a time-out that is none, there is no source."""
    with pytest.raises(ConfigurationError, match="AWSSecrets"):
        AWSSecrets(**options)
