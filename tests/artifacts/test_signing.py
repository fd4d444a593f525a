"""``sign_model`` and ``verify_model``: what holds, and every way around it that must not."""

# mypy: disable-error-code="func-returns-value"

import hashlib
import json
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mlguard
from mlguard import ConfigurationError, ModelRefusedError, ModelSignatureError, VerifiedModel, sign_model, verify_model
from tests.artifacts.models import KEY, OTHER, PUBLIC, make_model, public_pem


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that was signed."""
    root = make_model(tmp_path / "iris")
    sign_model(root, KEY)
    return root


def refused(model: Path, match: str, **options: Any) -> None:
    """Verification refuses the model, and says why."""
    with pytest.raises(ModelSignatureError, match=match):
        verify_model(model, PUBLIC, **options)


# What holds ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_was_signed_is_verified(tmp_path: Path) -> None:
    """Verification says what was signed, by whom, and the digest of each file."""
    root = make_model(tmp_path / "iris")
    signed = sign_model(root, KEY)
    verified = verify_model(root, PUBLIC)
    assert verified == signed
    assert (verified.path, verified.name) == (root, "iris")
    assert verified.key_id == hashlib.sha256(public_pem(PUBLIC)).hexdigest()
    assert verified.files == {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != "model.sig"
    }
    digests = b"".join(
        bytes.fromhex(verified.files[path]) for path in ("config.json", "weights/empty", "weights/one.bin")
    )
    assert verified.digest == hashlib.sha256(digests).hexdigest()


def test_what_was_verified_cannot_be_changed(model: Path) -> None:
    """It can be kept, compared and used as a key, and nobody adds a file to it."""
    verified = verify_model(model, PUBLIC)
    with pytest.raises(TypeError):
        verified.files["more"] = "0" * 64  # type: ignore[index]
    with pytest.raises(AttributeError):
        verified.digest = "0" * 64  # type: ignore[misc]
    assert {verified: 1}[verify_model(model, PUBLIC)] == 1
    assert "weights" not in repr(verified)


def test_a_file_that_was_signed_is_verified(tmp_path: Path) -> None:
    """Its signature lies beside it, and its path relative to itself is ``"."``."""
    path = tmp_path / "iris.skops"
    path.write_bytes(b"model")
    sign_model(path, KEY)
    assert (tmp_path / "iris.skops.sig").exists()
    assert verify_model(path, PUBLIC).files == {path.relative_to(path).as_posix(): hashlib.sha256(b"model").hexdigest()}


def test_a_model_may_be_moved_and_its_folder_renamed(model: Path, tmp_path: Path) -> None:
    """The name that was signed stays, and can be demanded."""
    elsewhere = model.rename(tmp_path / "elsewhere")
    assert verify_model(elsewhere, PUBLIC, name="iris").name == "iris"
    refused(elsewhere, "another name", name="elsewhere")


def test_the_path_of_a_signature_is_where_it_is_wanted(tmp_path: Path) -> None:
    """Beside the folder, inside it, or in the current one: the signature is no file of the model."""
    root = make_model(tmp_path / "iris")
    for signature in (tmp_path / "elsewhere.sig", root / "weights" / "iris.sig"):
        sign_model(root, KEY, signature=signature)
        assert len(verify_model(str(root), PUBLIC, signature=str(signature)).files) == 3
        signature.unlink()


def test_a_signature_inside_is_none_of_the_files_however_its_path_is_written(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path, or one through a link to the folder, leads to the same place."""
    link = model.parent / "link"
    link.symlink_to(model)
    monkeypatch.chdir(model)
    assert verify_model(model, PUBLIC, signature="model.sig").name == "iris"
    assert verify_model(".", PUBLIC).path == Path()
    assert verify_model(model, PUBLIC, signature=link / "model.sig").name == "iris"


def test_another_signature_replaces_the_one_that_is_there(model: Path) -> None:
    """Whoever signs again after a change overwrites, and leaves no other file behind."""
    (model / "config.json").write_text("{1}")
    sign_model(model, OTHER, name="iris-2")
    assert verify_model(model, OTHER.public_key()).name == "iris-2"
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.sig", "weights"]
    assert stat.S_IMODE((model / "model.sig").stat().st_mode) == 0o644


def test_keys_can_be_rotated(model: Path) -> None:
    """Each of several keys may have signed; the result says which one has."""
    keys = [OTHER.public_key(), PUBLIC]
    first = verify_model(model, keys)
    sign_model(model, OTHER)
    assert verify_model(model, keys).key_id != first.key_id
    refused(model, "another key")


# Refused --------------------------------------------------------------------------------------------------------------

Change = Callable[[Path], object]


def _swap(root: Path) -> None:
    (root / "config.json").rename(root / "other")
    (root / "weights" / "one.bin").rename(root / "config.json")
    (root / "other").rename(root / "weights" / "one.bin")


CHANGES: dict[str, tuple[Change, str]] = {
    "one byte": (lambda root: (root / "weights" / "one.bin").write_bytes(b"1" * 4_999 + b"2"), r"one\.bin' is not as"),
    "longer": (lambda root: (root / "weights" / "empty").write_bytes(b"\0"), "empty' is not as"),
    "shorter": (lambda root: (root / "config.json").write_bytes(b""), r"config\.json' is not as"),
    "extra": (lambda root: (root / "weights" / "__init__.py").touch(), r"not signed: 'weights/__init__\.py'"),
    "extra beside": (lambda root: (root / ".hidden").touch(), r"not signed: '\.hidden'"),
    "missing": (lambda root: (root / "weights" / "empty").unlink(), "not there, or ignored: 'weights/empty'"),
    "renamed": (
        lambda root: (root / "config.json").rename(root / "Config.json"),
        "there and not signed: 'Config.json'",
    ),
    "swapped": (_swap, "is not as it was signed"),
    "another folder": (
        lambda root: (root / "weights").rename(root / "weight"),
        "there and not signed: 'weight/empty', 'weight/one.bin'$",
    ),
    "a file for a folder": (
        lambda root: (shutil.rmtree(root / "weights"), (root / "weights").touch()),
        "not signed: 'weights'",
    ),
    "a folder for a file": (
        lambda root: ((root / "config.json").unlink(), (root / "config.json").mkdir()),
        r"not there, or ignored: 'config\.json'",
    ),
    "composed": (lambda root: (root / "caf\u00e9").touch(), r"not signed: 'caf\\xe9'"),
    "many": (
        lambda root: [(root / f"{n}").touch() for n in range(9)],
        "there and not signed: '0', '1', '2' and 6 more",
    ),
    "a line feed": (lambda root: (root / "a\nb").touch(), r"'a\\nb' is no portable name"),
    "a backslash": (lambda root: (root / "..\\b").touch(), "is no portable name"),
    "no UTF-8": (lambda root: Path(os.fsdecode(bytes(root) + b"/\xff")).touch(), r"'\\udcff' is no portable name"),
    "a link to a file": (lambda root: (root / "link").symlink_to("config.json"), "'link' is a symbolic link"),
    "a link in its place": (
        lambda root: ((root / "config.json").rename(root.parent / "c"), (root / "config.json").symlink_to("../c")),
        r"'config\.json' is a symbolic link",
    ),
    "a link to nothing": (lambda root: (root / "link").symlink_to("nowhere"), "'link' is a symbolic link"),
    "a link to itself": (lambda root: (root / "link").symlink_to("link"), "'link' is a symbolic link"),
    "a link to a folder": (lambda root: (root / "link").symlink_to("/"), "'link' is a symbolic link"),
    "a linked folder in its place": (
        lambda root: ((root / "weights").rename(root.parent / "w"), (root / "weights").symlink_to("../w")),
        "'weights' is a symbolic link",
    ),
    "a pipe": (lambda root: os.mkfifo(root / "pipe"), "'pipe' is a device, a pipe or a socket"),
    "a pipe in its place": (
        lambda root: ((root / "config.json").unlink(), os.mkfifo(root / "config.json")),
        r"'config\.json' is a device, a pipe or a socket",
    ),
    "deep": (lambda root: (root.joinpath(*["d"] * 80)).mkdir(parents=True), "more than 64 deep"),
    "no signature": (
        lambda root: (root / "model.sig").unlink(),
        r"no signature that can be read: '.*model\.sig': No such file or directory; mlguard model sign",
    ),
    "an empty signature": (lambda root: (root / "model.sig").write_bytes(b""), "no strict JSON"),
    "a folder as the signature": (
        lambda root: ((root / "model.sig").unlink(), (root / "model.sig").mkdir()),
        "signature is a link or a device",
    ),
    "a linked signature": (
        lambda root: ((root / "model.sig").rename(root.parent / "s"), (root / "model.sig").symlink_to("../s")),
        "signature is a link or a device",
    ),
    "a pipe as the signature": (
        lambda root: ((root / "model.sig").unlink(), os.mkfifo(root / "model.sig")),
        "signature is a link or a device",
    ),
    "a huge signature": (lambda root: os.truncate(root / "model.sig", 1 << 40), "signature is larger than 52248576"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_is_not_as_it_was_signed_is_refused(name: str, model: Path) -> None:
    """Whatever was done to it, the refusal says what is wrong; nothing hangs, and no link is followed."""
    change, match = CHANGES[name]
    change(model)
    refused(model, match)


def test_a_socket_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not connected to."""
    monkeypatch.chdir(model)  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        refused(model, "'s' is a device, a pipe or a socket")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_refused(model: Path) -> None:
    """It is not opened."""
    try:
        os.mknod(model / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("no devices may be made here")
    refused(model, "'zero' is a device, a pipe or a socket")


@pytest.mark.parametrize("target", ["iris", "iris/config.json"])
def test_a_model_that_is_a_link_is_refused(target: str, model: Path, tmp_path: Path) -> None:
    """What a link leads to can be another model a moment later."""
    sign_model(model / "config.json", KEY, signature=tmp_path / "link.sig")
    link = tmp_path / "link"
    link.symlink_to(target)
    signature = tmp_path / "link.sig" if target.endswith("json") else None
    refused(link, "the model is a symbolic link", signature=signature)
    with pytest.raises(ModelSignatureError, match="the model is a symbolic link"):
        sign_model(link, KEY)


@pytest.mark.skipif(not Path("/dev/zero").is_char_device(), reason="there is no such device")
def test_a_device_is_no_model() -> None:
    """It would never end."""
    with pytest.raises(ModelSignatureError, match="neither a file nor a folder"):
        sign_model("/dev/zero", KEY)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="there is no such file")
def test_a_file_that_holds_more_than_it_says_is_refused(tmp_path: Path) -> None:
    """A file of size 0 that can be read without end is not read without end."""
    with pytest.raises(ModelSignatureError, match="was changed while it was read"):
        sign_model("/proc/self/status", KEY, signature=tmp_path / "s")


def test_too_many_files_are_refused_before_any_is_read(model: Path) -> None:
    """Folders count too. The limit is the verifier's."""
    assert len(verify_model(model, PUBLIC, max_files=4).files) == 3
    refused(model, "more than 3 files and folders", max_files=3)
    with pytest.raises(ModelSignatureError, match="more than 3 files and folders"):
        sign_model(model, KEY, max_files=3)


def test_names_longer_than_any_path_are_refused(model: Path) -> None:
    """Folders in folders can make names of any length, of which only so much is looked at."""
    below = os.open(model, os.O_RDONLY)
    for _ in range(40):  # 40 names of 250 bytes are 10 KB
        os.mkdir("n" * 250, dir_fd=below)
        inner = os.open("n" * 250, os.O_RDONLY, dir_fd=below)
        os.close(below)
        below = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
    os.close(below)
    refused(model, "is no portable name: too long")


def test_a_model_without_a_file_is_not_signed(tmp_path: Path) -> None:
    """A signature of nothing would make an empty folder a verified model."""
    (tmp_path / "nothing" / "in" / "it").mkdir(parents=True)
    with pytest.raises(ModelSignatureError, match="no file to sign"):
        sign_model(tmp_path / "nothing", KEY)


def test_what_would_be_refused_is_not_signed(tmp_path: Path) -> None:
    """Nor is a signature left behind."""
    root = make_model(tmp_path / "iris")
    (root / "link").symlink_to("config.json")
    with pytest.raises(ModelSignatureError, match="'link' is a symbolic link"):
        sign_model(root, KEY)
    assert not (root / "model.sig").exists()


@pytest.mark.parametrize(
    ("length", "match"), [(3_000, "too large to be verified"), (3_800, "longer names than a signature may list")]
)
def test_a_signature_that_would_be_refused_is_not_written(length: int, match: str, tmp_path: Path) -> None:
    """Many long names make a signature too large for whoever reads it with the same limit."""
    root = tmp_path / "long"
    deep = root.joinpath(*["n" * (length // 20 - 1)] * 20)
    deep.mkdir(parents=True)
    for number in range(400):
        (deep / f"{number}").touch()
    with pytest.raises(ModelSignatureError, match=match):
        sign_model(root, KEY, max_files=420)
    sign_model(root, KEY, max_files=9_000)
    assert len(verify_model(root, PUBLIC, max_files=9_000).files) == 400


def test_a_signature_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    """A signature that holds is one of its own files only."""
    other = make_model(tmp_path / "other")
    (other / "config.json").write_text("other")
    sign_model(other, KEY)
    (model / "model.sig").unlink()
    refused(model, r"config\.json' is not as it was signed", signature=other / "model.sig")
    refused(model / "config.json", r"there and not signed: '\.'", signature=other / "model.sig")


def test_a_refusal_is_a_model_that_was_refused() -> None:
    """One ``except`` holds for every reason why a model file may not be used."""
    assert issubclass(ModelSignatureError, ModelRefusedError)


# Ignored --------------------------------------------------------------------------------------------------------------


def test_only_the_caller_can_ignore_a_path(model: Path) -> None:
    """What is below an ignored path is not looked at, whatever it is; a path that begins alike is."""
    (model / ".git").mkdir()
    (model / ".git" / "HEAD").symlink_to("/dev/zero")
    refused(model, r"'\.git/HEAD' is a symbolic link")
    assert verify_model(model, PUBLIC, ignore=[".git"]) == verify_model(model, PUBLIC, ignore=(".git/", "more"))
    (model / ".github").touch()
    refused(model, r"not signed: '\.github'", ignore=[".git"])


def test_what_the_signer_has_ignored_hides_nothing(model: Path) -> None:
    """The list of ignored paths in the signature is not followed."""
    (model / "notes").touch()
    sign_model(model, KEY, ignore=["notes"])
    refused(model, "not signed: 'notes'")
    assert "notes" not in verify_model(model, PUBLIC, ignore=["notes"]).files


def test_a_signed_file_that_is_ignored_is_refused(model: Path) -> None:
    """Otherwise it could be altered, and would be among the files that were verified."""
    refused(model, "not there, or ignored: 'weights/empty', 'weights/one.bin'", ignore=["weights"])


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ignore", [".git", b".git", 5, [""], ["."], [".."], ["a/../b"], ["/etc"], ["a//b"], [b"a"], ["a\\b"]]
)
def test_a_path_to_ignore_is_one_inside_the_model(ignore: Any, model: Path) -> None:
    """A list, of relative paths that lead nowhere else."""
    with pytest.raises(ConfigurationError, match="ignore"):
        verify_model(model, PUBLIC, ignore=ignore)


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"path": 5}, "path"),
        ({"path": ""}, "path"),
        ({"path": b"iris"}, "path"),
        ({"path": "nowhere"}, "path: there is no such"),
        ({"path": "a\0b"}, "path"),
        ({"signature": 5}, "signature"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": 5}, "name"),
        ({"max_files": 0}, "max_files"),
        ({"max_files": True}, "max_files"),
        ({"max_files": 10_000_001}, "max_files"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(options: dict[str, Any], setting: str, model: Path) -> None:
    """The error names the setting, also where the model is signed."""
    for function, key in ((verify_model, PUBLIC), (sign_model, KEY)):
        with pytest.raises(ConfigurationError, match=setting):
            function(**({"path": model, "key": key} | options))


def test_a_folder_without_a_name_needs_one() -> None:
    """The root of the file system has none."""
    with pytest.raises(ConfigurationError, match="gives the model no name"):
        sign_model("/", KEY)


# What is left behind --------------------------------------------------------------------------------------------------


def test_each_decision_is_an_event(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the model, its digest and the key, or with the reason."""
    with caplog.at_level(logging.INFO, logger="mlguard.audit"):
        signed = sign_model(model, KEY)
        verify_model(model, PUBLIC)
        (model / "x").touch()
        refused(model, "not signed")
    facts = {"model": "iris", "digest": signed.digest, "key": signed.key_id}
    assert [(line.__dict__["event"], line.__dict__["facts"]) for line in caplog.records] == [
        ("model.signed", facts),
        ("model.verified", facts),
        ("model.refused", {"model": "iris", "reason": "there and not signed: 'x'"}),
    ]


def test_a_signature_that_cannot_be_written_leaves_the_old_one(model: Path) -> None:
    """The error is the file system's."""
    before = (model / "model.sig").read_bytes()
    with pytest.raises(OSError, match="nowhere"):
        sign_model(model, KEY, signature=model / "nowhere" / "model.sig")
    assert (model / "model.sig").read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory cannot be measured here")
def test_large_files_are_verified_in_little_memory(tmp_path: Path) -> None:
    """Half a gigabyte, in two threads: the peak of the process rises by less than 16 MiB."""
    root = tmp_path / "large"
    root.mkdir()
    for name in "ab":
        with (root / name).open("wb") as file:
            file.truncate(250_000_000)  # a hole: it takes no room
    program = textwrap.dedent("""
        import json, re, sys
        from cryptography.hazmat.primitives.asymmetric import ec
        from mlguard import sign_model, verify_model
        key = ec.generate_private_key(ec.SECP256R1())
        peak = lambda: int(re.search("VmHWM:\\s*([0-9]+)", open("/proc/self/status").read())[1])
        before = peak()
        sign_model(sys.argv[1], key)
        verify_model(sys.argv[1], key.public_key())
        print(json.dumps([before, peak()]))
    """)
    source = str(Path(mlguard.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program, str(root)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    before, after = json.loads(done.stdout)
    assert after - before < 16 * 1024


def test_a_result_can_be_made_by_hand() -> None:
    """For the tests of whoever loads a model."""
    assert VerifiedModel(Path("iris"), "iris", "0" * 64, "1" * 64, {"a": "2" * 64}).files["a"] == "2" * 64
