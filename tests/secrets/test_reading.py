"""What all sources share: names, the judgement of answers, the end of waiting, and the audit."""

import logging
import threading
import traceback
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from tests.secrets.servers import SECRET

from mlguard import ConfigurationError, SecretNotFoundError, SecretUnavailableError
from mlguard._lookout import restart_all
from mlguard.secrets._answers import MAX_SIZE, Missing, Unusable
from mlguard.secrets._reading import NAMES, Reading, load_client

reading = Reading("place://", timeout=20)
here = Reading("place://")


def read(value: object) -> str:
    return here.read("token", lambda _: value).get_secret_value()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_one_line_end_is_no_part_of_a_secret(end: str) -> None:
    """What ``echo`` and editors add is taken away; a second line end is left for the check of secrets to refuse."""
    assert read(SECRET + end) == SECRET
    assert read(SECRET.encode() + end.encode()) == SECRET
    assert read(SECRET + "\n" + end) == SECRET + ("\n" if end else "")


def test_keys_in_pem_and_in_other_languages_are_secrets() -> None:
    """Several lines, tabulators and letters of any script stay as they are."""
    pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END PRIVATE KEY-----"
    assert read(pem + "\n") == pem
    assert read("clé\tsecrète") == "clé\tsecrète"
    assert read('{"kty": "oct"}') == '{"kty": "oct"}'


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "empty"),
        ("\n", "empty"),
        (" \t\r\n", "empty"),
        (b"", "empty"),
        (None, "no text"),
        (7, "no text"),
        (True, "no text"),
        ({"token": SECRET}, "no text"),
        ([SECRET], "no text"),
        (SecretStr(SECRET), "no text"),
        (b"\xff\xfe" + SECRET.encode(), "binary"),
        (SECRET + "\udce9", "binary"),
        (SECRET + "\0", "control"),
        ("\x1b[2J" + SECRET, "control"),
        ("<!DOCTYPE html>" + SECRET, "HTML"),
        ("\n <html lang=en>" + SECRET, "HTML"),
        ("<?xml version='1.0'?>", "XML"),
        ("<Error><Code>AccessDenied</Code>", "XML"),
        ("x" * (MAX_SIZE + 1), "larger"),
        ("é" * (MAX_SIZE // 2 + 1), "larger"),
        (b"\xff" * (MAX_SIZE + 1), "larger"),
    ],
)
def test_what_is_no_secret(value: object, why: str) -> None:
    """Nothing, bytes, pages and what is too large are no secrets, and are not quoted."""
    with pytest.raises(SecretUnavailableError, match=why) as error:
        read(value)
    assert SECRET not in "".join(traceback.format_exception(error.value))


@given(st.one_of(st.text(), st.binary(), st.none(), st.integers(), st.lists(st.text())))
@example("x" * MAX_SIZE)
@example("<>")
def test_an_answer_is_a_secret_or_an_error(value: object) -> None:
    """Whatever a source hands over, it is the text itself or one kind of error."""
    try:
        text = read(value)
    except SecretUnavailableError as error:
        assert error.reason  # noqa: PT017  # either is right
    else:
        assert isinstance(value, str | bytes)
        whole = value if isinstance(value, str) else value.decode()
        assert text.strip()
        assert whole.startswith(text)
        assert whole[len(text) :] in {"", "\n", "\r", "\r\n"}


@pytest.mark.parametrize(
    "name", ["a", "prod/iris", "prod/iris#token", "iris#", "a.b-c_d", "...", "arn:aws:secretsmanager:x", "a/..b"]
)
def test_names(name: str) -> None:
    """Names may have parts, and a key behind #."""
    assert reading.read(name, lambda _: SECRET).get_secret_value() == SECRET


@pytest.mark.parametrize(
    "name",
    [
        "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "a/.", "a/..#b", "#a", "a#b#c", "a?b", "a b",
        "a\n", "a\0", "a%2e%2e", "a\\b", "ä", "a" * 513, "a#" + "b" * 129, None, 7, b"a", SecretStr("a"),
        "../" * 1000, "a/" * 255 + "!",
    ],
)  # fmt: skip
def test_what_is_no_name(name: Any) -> None:
    """What leads elsewhere or is no name is not asked for, and not quoted: it may be a secret in the wrong place."""

    def never(_: str) -> str:
        raise AssertionError

    with pytest.raises(SecretUnavailableError, match=r"no name of a secret here") as error:
        reading.read(name, never)
    assert error.value.name == "(no name)"


@settings(max_examples=50)
@given(st.from_regex(NAMES, fullmatch=True))
def test_no_name_leads_out(name: str) -> None:
    """No name has a part that stands for another place, or that a URL takes for something else."""
    path = name.partition("#")[0]
    assert not {"", ".", ".."} & set(path.split("/"))
    assert not set(path) & set("?#%\\ \n")


def test_time_ends_what_hangs() -> None:
    """Who waits is let go when the time is over; the thread that is left behind holds one of four places."""
    released = threading.Event()
    slow = Reading("place://", timeout=0.02)

    def hang(_: str) -> str:
        released.wait(30)
        return SECRET

    for _ in range(4):
        with pytest.raises(SecretUnavailableError, match=r"not answered within 0\.02 seconds"):
            slow.read("token", hang)
    with pytest.raises(SecretUnavailableError, match="earlier calls have had no answer yet"):
        slow.read("token", lambda _: SECRET)
    released.set()
    for thread in threading.enumerate():
        if thread.name == "mlguard-secret":
            thread.join(30)
    quick = Reading("place://", timeout=20)
    quick._waiting = slow._waiting  # the places are free again
    assert quick.read("token", lambda _: SECRET).get_secret_value() == SECRET


def test_who_waits_in_the_parent_of_a_fork_holds_no_place_in_the_child() -> None:
    """What runs in the child of a fork, here without one. In the parent all goes on."""
    released = threading.Event()
    slow = Reading("place://", timeout=0.02)
    for _ in range(4):
        with pytest.raises(SecretUnavailableError, match="not answered"):
            slow.read("token", lambda _: released.wait(30))
    restart_all()
    slow._timeout = 20
    assert slow.read("token", lambda _: SECRET).get_secret_value() == SECRET
    released.set()
    for thread in threading.enumerate():
        if thread.name == "mlguard-secret":
            thread.join(30)
    assert slow.read("token", lambda _: SECRET).get_secret_value() == SECRET


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a thread left is a source that cannot be asked, and no place is lost by it."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(5):
            with pytest.raises(SecretUnavailableError, match=r"cannot be asked \(RuntimeError\)"):
                reading.read("token", lambda _: SECRET)
    assert reading.read("token", lambda _: SECRET)


@pytest.mark.parametrize("of", [here, reading])
@pytest.mark.parametrize("error", [ValueError(SECRET), OSError(SECRET), KeyError(SECRET), RecursionError(SECRET)])
def test_errors_of_clients_are_told_by_their_type(error: Exception, of: Reading) -> None:
    """What a client raises may quote what it was sent, so only its type is told, and nothing comes along."""

    def fail(_: str) -> str:
        raise error

    with pytest.raises(SecretUnavailableError, match=type(error).__name__) as caught:
        of.read("token", fail)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("of", [here, reading])
def test_every_read_is_an_event(of: Reading, caplog: pytest.LogCaptureFixture) -> None:
    """The audit has the name and the source of each read, whether it went well or not, and never a value."""

    def missing(_: str) -> str:
        raise Missing("there is none")

    def unusable(_: str) -> str:
        raise Unusable("it is odd")

    with caplog.at_level(logging.INFO, logger="mlguard.audit"):
        of.read("token", lambda _: SECRET)
        with pytest.raises(SecretNotFoundError):
            of.read("other", missing)
        with pytest.raises(SecretUnavailableError):
            of.read("third", unusable)
        with pytest.raises(SecretUnavailableError):
            of.read(SECRET + "\n", unusable)
    assert [record.getMessage() for record in caplog.records] == [
        "secret.read name=token source=place://",
        "secret.unavailable name=other source=place:// reason='there is none'",
        "secret.unavailable name=third source=place:// reason='it is odd'",
        "secret.unavailable name='(no name)' source=place:// reason='what was asked for is no name of a secret here'",
    ]
    assert SECRET not in caplog.text


def test_a_client_that_is_not_installed() -> None:
    """The error names the package and the extra."""
    with pytest.raises(ConfigurationError, match=r"X needs the package none: pip install 'mlguard\[x\]'") as error:
        load_client("no_such_module.of_anybody", source="X", package="none", extra="x")
    assert error.value.__context__ is None


def test_clients_speak_again_after_a_read(caplog: pytest.LogCaptureFixture) -> None:
    """A logger that is quiet during a read is quiet in that thread alone, and not after it."""
    log = logging.getLogger("botocore.parsers")

    def ask(_: str) -> str:
        log.debug("Response body: %s", SECRET)
        other = threading.Thread(target=lambda: log.debug("of somebody else"))
        other.start()
        other.join()
        return SECRET

    with caplog.at_level(logging.DEBUG):
        reading.read("token", ask)
        log.debug("afterwards")
    assert [record.getMessage() for record in caplog.records if record.name == log.name] == [
        "of somebody else",
        "afterwards",
    ]
