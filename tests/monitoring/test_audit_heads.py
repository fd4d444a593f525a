"""Signed heads: what a place must be and do, and what nobody without the key can say."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mlguard import AuditHeads, AuditLog, ConfigurationError, verify_audit_log
from mlguard._lookout import restart_all
from mlguard.monitoring._audit_chain import Point
from mlguard.monitoring.audit_heads import read_heads
from tests.monitoring.audit_logs import KEY, events, write

SIGNS = Ed25519PrivateKey.generate()
PEM = SIGNS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC_PEM = SIGNS.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
EC = generate_private_key(SECP256R1())
EC_PEM = EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
POINT = Point("0123456789abcdef", 41, "ab" * 32, 1)


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    (tmp_path / "head.pem").write_bytes(PEM)
    return tmp_path / "head.pem"


def kept(key: Any, *points: Point) -> list[bytes]:
    """The lines of heads of these points."""
    lines: list[bytes] = []
    heads = AuditHeads(lines.append, key=key, every=3_600)
    for point in points:
        heads.reached(point)
        heads.keep()
    return lines


def test_keys_come_in_every_form(pem: Path) -> None:
    """PEM as text or bytes, a file, or a key that is ready: the same head for all of them."""
    lines = {line for key in (SIGNS, PEM, PEM.decode(), pem, str(pem)) for line in kept(key, POINT)}
    assert len(lines) == 1
    forms: list[Any] = [SIGNS.public_key(), PUBLIC_PEM, PUBLIC_PEM.decode()]
    for public in [*forms, [PUBLIC_PEM, Ed25519PrivateKey.generate().public_key()]]:
        heads = read_heads(lines, public)
        assert heads.last == {POINT.chain: POINT}
        assert heads.refused == 0


@pytest.mark.parametrize("key", [EC, EC_PEM, b"", "missing.pem", None, 7, PUBLIC_PEM, "a\0b"])
def test_other_keys_sign_nothing(key: Any) -> None:
    """A key of another kind, or none, stops the service when it is built, and is not quoted."""
    with pytest.raises(ConfigurationError):
        AuditHeads(print, key=key)


@pytest.mark.parametrize("key", [EC.public_key(), PEM, "missing.pem", None, []])
def test_other_keys_verify_nothing(key: Any) -> None:
    """Who verifies needs the public key, and no other."""
    with pytest.raises(ConfigurationError):
        read_heads([], key)


@pytest.mark.parametrize("every", [0, 86_401, "60", True, float("nan")])
def test_times_out_of_range_are_refused(every: Any) -> None:
    """Heads are kept every second at most, and every day at least."""
    with pytest.raises(ConfigurationError, match="every"):
        AuditHeads(print, key=SIGNS, every=every)


def test_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    """A folder that is not there keeps nothing."""
    with pytest.raises(ConfigurationError, match="no such folder"):
        AuditHeads(tmp_path / "missing", key=SIGNS)
    with pytest.raises(ConfigurationError, match="no such folder"):
        read_heads(tmp_path / "missing", PUBLIC_PEM)


def test_the_last_head_of_each_chain_counts(tmp_path: Path) -> None:
    """Of many heads the furthest is taken, in whatever order they come."""
    other = Point("f" * 16, 3, "cd" * 32, 1)
    lines = kept(SIGNS, POINT._replace(seq=7), POINT, other)
    assert read_heads(reversed(lines), PUBLIC_PEM).last == {POINT.chain: POINT, other.chain: other}


def test_heads_of_others_are_refused() -> None:
    """What is not signed, with another key, or altered, is counted, and not believed."""
    (line,) = kept(SIGNS, POINT)
    (others,) = kept(Ed25519PrivateKey.generate(), POINT)
    wrong = [
        b"",
        b"[]\n",
        b"\xff\n",
        others,
        line.replace(b'"seq":41', b'"seq":42'),
        line.replace(b'"signature":"', b'"signature":"x'),
        line[:-9],
        line.replace(b'"seq":41', b'"seq":true'),
        line.replace(b'"file":1,', b""),
    ]
    heads = read_heads(wrong, PUBLIC_PEM)
    assert heads.last == {}
    assert heads.refused == len(wrong)


def test_a_signed_text_of_another_kind_is_no_head() -> None:
    """A head is signed as a head: another document that was signed with the same key is none."""
    body = b'{"chain":"0123456789abcdef","file":1,"mac":"ab","seq":1,"v":1}'
    line = body[:-1] + b',"signature":"' + SIGNS.sign(body).hex().encode() + b'"}\n'
    assert read_heads([line], PUBLIC_PEM).refused == 1


def test_a_place_that_fails_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """The log goes on, the operator is told, and the next head covers what is missing."""
    lines: list[bytes] = []
    is_lost = [True]

    def place(line: bytes) -> None:
        if is_lost:
            raise ConnectionError("a secret")
        lines.append(line)

    heads = AuditHeads(place, key=SIGNS, every=3_600)
    heads._lookout.is_out = True  # the test is the thread
    heads.reached(POINT)
    heads.keep()
    assert (heads.kept, heads.failures) == (0, 1)
    assert "its head cannot be kept (ConnectionError)" in caplog.text
    assert "a secret" not in caplog.text
    is_lost.clear()
    assert heads.look() == 3_600
    heads.keep()
    assert (heads.kept, heads.failures) == (1, 1)
    assert read_heads(lines, PUBLIC_PEM).last == {POINT.chain: POINT}


def test_what_grows_while_a_head_is_kept_is_kept_next() -> None:
    """A record that comes while the place is slow has its head the next time."""
    lines: list[bytes] = []

    def place(line: bytes) -> None:
        lines.append(line)
        if len(lines) == 1:
            heads.reached(POINT)

    heads = AuditHeads(place, key=SIGNS, every=3_600)
    heads._lookout.is_out = True
    heads.reached(POINT._replace(seq=1))
    for _ in range(3):
        heads.keep()
    assert [line.count(b'"seq":41') for line in lines] == [0, 1]
    assert read_heads(lines, PUBLIC_PEM).last == {POINT.chain: POINT}


def test_chains_that_wait_for_their_head_are_bounded() -> None:
    """A log that fails again and again, and begins a chain each time, fills no memory."""
    lines: list[bytes] = []
    heads = AuditHeads(lines.append, key=SIGNS, every=3_600)
    with heads._keeping:  # the place is slow
        for number in range(200):
            heads.reached(POINT._replace(chain=f"{number:016x}"))
    heads.keep()
    assert len({line[:40] for line in lines}) <= 70
    assert f"{199:016x}" in read_heads(lines, PUBLIC_PEM).last


def test_a_child_of_a_fork_signs_nothing_of_its_parent() -> None:
    """What the parent has reached, the parent signs."""
    lines: list[bytes] = []
    heads = AuditHeads(lines.append, key=SIGNS, every=3_600)
    with heads._keeping:
        heads.reached(POINT)
        restart_all()
        heads.keep()
    assert heads.kept == 0
    assert repr(heads).startswith("AuditHeads(<built-in method append")


def test_a_link_in_the_folder_of_heads_is_no_head(tmp_path: Path) -> None:
    """What is no file is counted as one line that is none."""
    (tmp_path / "heads-x.jsonl").symlink_to("/dev/zero")
    assert read_heads(tmp_path, PUBLIC_PEM).refused == 1


def test_heads_are_kept_while_the_log_is_written(tmp_path: Path) -> None:
    """A process that is killed leaves a head behind: it does not wait for the end."""
    (tmp_path / "heads").mkdir()
    (tmp_path / "log").mkdir()
    log = AuditLog(tmp_path / "log", key=KEY, heads=AuditHeads(tmp_path / "heads", key=SIGNS))
    log.put(events(1)[0])
    assert log.flush()
    deadline = time.monotonic() + 30
    while not list((tmp_path / "heads").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    log.close()
    result = verify_audit_log(tmp_path / "log", key=KEY, heads=tmp_path / "heads", head_key=PUBLIC_PEM)
    assert result.is_intact
    assert result.chains[0].head is not None


def test_a_head_that_is_refused_is_a_problem(tmp_path: Path) -> None:
    """Whoever puts heads of their own beside the others is found."""
    write(tmp_path, events(1))
    result = verify_audit_log(tmp_path, key=KEY, heads=[b"{}\n"], head_key=PUBLIC_PEM)
    assert result.problems == ["heads: 1 lines are no heads, or not signed with this key"]
    assert not result.is_intact


def test_a_full_disk_leaves_no_half_of_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has taken of a line is cut off, that one counts as a failure, and the next one is a head."""
    heads = AuditHeads(tmp_path, key=SIGNS, every=3_600)
    heads._lookout.is_out = True  # the test is the thread
    written = os.write
    heads.reached(POINT)
    heads.keep()
    heads.reached(POINT._replace(seq=42))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: written(file, data[:50]))
        heads.keep()
    assert (heads.kept, heads.failures) == (1, 1)
    heads.keep()
    read = read_heads(tmp_path, PUBLIC_PEM)
    assert (read.last[POINT.chain].seq, read.refused) == (42, 0)


@pytest.mark.parametrize("size", [1, 9, 10, 60, -2])
def test_a_head_that_is_cut_short_is_no_tampering(tmp_path: Path, size: int) -> None:
    """A machine that loses its power leaves the beginning of one at the end of a file. In the middle there is none."""
    first, second = kept(SIGNS, POINT, POINT._replace(seq=42))
    file = tmp_path / f"heads-{POINT.chain}.jsonl"
    file.write_bytes(first + second[:size])
    read = read_heads(tmp_path, PUBLIC_PEM)
    assert (read.last[POINT.chain].seq, read.refused) == (41, 0)
    file.write_bytes(second[:size] + b"\n" + first)
    assert read_heads(tmp_path, PUBLIC_PEM).refused == 1
    file.write_bytes(first + b"x")
    assert read_heads(tmp_path, PUBLIC_PEM).refused == 1


def test_a_chain_that_ends_with_the_app_has_a_head_and_what_comes_later_another(tmp_path: Path) -> None:
    """A server may end its process without another word. Where nothing was put, there is nothing to end."""
    (tmp_path / "log").mkdir(mode=0o700)
    lines: list[bytes] = []
    heads = AuditHeads(lines.append, key=SIGNS, every=3_600)
    log = AuditLog(tmp_path / "log", key=KEY, heads=heads)

    async def end() -> None:
        await log.end_chain()
        await log.end_chain()

    for number in (1, 2):
        for event in events(2_000):  # more than are written at once
            log.put(event)
        asyncio.run(end())
        result = verify_audit_log(tmp_path / "log", key=KEY)
        assert [chain.ending for chain in result.chains] == ["closed"] * number
        assert len(read_heads(lines, SIGNS.public_key()).last) == number
    assert log.close()
    assert len(verify_audit_log(tmp_path / "log", key=KEY).chains) == 2


def test_a_chain_without_heads_ends_with_the_app_too(tmp_path: Path) -> None:
    """And of a log that somebody has closed there is nothing to be said."""
    log = AuditLog(tmp_path, key=KEY)
    asyncio.run(log.end_chain())
    assert not [*tmp_path.iterdir()]  # there is nothing to end
    log.put(events(1)[0])
    asyncio.run(log.end_chain())
    assert [chain.ending for chain in verify_audit_log(tmp_path, key=KEY).chains] == ["closed"]
    assert log.close()
    asyncio.run(log.end_chain())
