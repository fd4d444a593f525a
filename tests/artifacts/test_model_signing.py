"""The real ``model_signing``: it verifies what ``sign_model`` writes, and what it writes is verified here."""

import base64
import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from mlguard import ModelSignatureError, sign_model, verify_model
from tests.artifacts.models import KEY, OTHER, PUBLIC, make_model, private_pem, public_pem

pytest.importorskip("OpenSSL")
hashing: Any = pytest.importorskip("model_signing.hashing")
signing: Any = pytest.importorskip("model_signing.signing")
verifying: Any = pytest.importorskip("model_signing.verifying")

COMMAND = Path(sysconfig.get_path("scripts")) / "model_signing"
GIT = (".git", ".gitattributes", ".github", ".gitignore")

#: Names that sort in another order as texts than as paths, and names that JSON has to escape.
NAMES = ["a/b", "a-b", "a.txt", "a/b-c/d", "a/b.c", "A", "\u00e9", "e\u0301", "\U0001f600", 'q"uote', "spa ce", "z/z/z"]


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Files of a private and of a public key."""
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(private_pem(KEY))
    public.write_bytes(public_pem(PUBLIC))
    return private, public


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with names of many kinds."""
    root = make_model(tmp_path / "iris")
    for name in NAMES:
        path = root / name / "file" if name == "a/b" else root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def theirs(keys: tuple[Path, Path]) -> Any:
    return signing.Config().use_elliptic_key_signer(private_key=keys[0])


def verified_by_them(model: Path, signature: Path, keys: tuple[Path, Path], **options: Any) -> None:
    config = verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    if options:
        config.set_hashing_config(hashing.Config().set_ignored_paths(**options))
    config.verify(model, signature)


def payload(signature: Path) -> Any:
    return json.loads(base64.b64decode(json.loads(signature.read_bytes())["dsseEnvelope"]["payload"]))


def test_the_command_verifies_ours_and_we_verify_its(model: Path, keys: tuple[Path, Path]) -> None:
    """A folder, by the command itself, with the signature inside; an altered file is refused on both sides."""
    private, public = keys
    signature = model / "model.sig"
    sign: list[str | Path] = [COMMAND, "sign", "key", model, "--private_key", private, "--signature", signature]
    verify: list[str | Path] = [COMMAND, "verify", "key", model, "--public_key", public, "--signature", signature]
    subprocess.run(sign, check=True, capture_output=True)
    by_them = verify_model(model, public)
    by_us = sign_model(model, private)
    assert (by_us.digest, by_us.files, by_us.key_id) == (by_them.digest, by_them.files, by_them.key_id)
    assert subprocess.run(verify, check=False, capture_output=True).returncode == 0
    (model / "A").write_text("altered")
    assert subprocess.run(verify, check=False, capture_output=True).returncode == 1
    with pytest.raises(ModelSignatureError, match="'A' is not as it was signed"):
        verify_model(model, public)


def test_what_is_signed_is_the_same(model: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """The statements are equal but for the list of ignored paths."""
    theirs(keys).sign(model, tmp_path / "their.sig")
    sign_model(model, keys[0], signature=tmp_path / "our.sig")
    statements = [payload(tmp_path / name) for name in ("their.sig", "our.sig")]
    for statement in statements:
        statement["predicate"]["serialization"].pop("ignore_paths")
    assert statements[0] == statements[1]
    bundles = [json.loads((tmp_path / name).read_bytes()) for name in ("their.sig", "our.sig")]
    for bundle in bundles:
        bundle["dsseEnvelope"].pop("payload")
        bundle["dsseEnvelope"]["signatures"][0].pop("sig")
    assert bundles[0] == bundles[1]


def test_one_file_is_verified_both_ways(model: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Its signature lies anywhere else."""
    path = model / "config.json"
    theirs(keys).sign(path, tmp_path / "their.sig")
    by_them = verify_model(path, keys[1], signature=tmp_path / "their.sig")
    assert sign_model(path, keys[0]) == by_them
    verified_by_them(path, model / "config.json.sig", keys)


def test_a_signature_of_another_key_is_refused_by_both(model: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """By its hint already."""
    sign_model(model, OTHER)
    with pytest.raises(ValueError, match="Key mismatch"):
        verified_by_them(model, model / "model.sig", keys)
    theirs(keys).sign(model, model / "model.sig")
    with pytest.raises(ModelSignatureError, match="another key"):
        verify_model(model, OTHER.public_key())


def test_what_they_leave_out_has_to_be_ignored_by_name(model: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """``model_signing`` leaves out what git keeps, without a word. Here the caller says so."""
    (model / ".git").mkdir()
    (model / ".git" / "hook").write_text("evil")
    (model / ".gitattributes").touch()
    signature = tmp_path / "their.sig"
    theirs(keys).sign(model, signature)
    with pytest.raises(ModelSignatureError, match="there and not signed"):
        verify_model(model, PUBLIC, signature=signature)
    assert verify_model(model, PUBLIC, signature=signature, ignore=GIT).files
    sign_model(model, KEY, signature=signature, ignore=GIT)
    verified_by_them(model, signature, keys)


def test_what_git_keeps_is_signed_here_unless_it_is_ignored(model: Path, keys: tuple[Path, Path]) -> None:
    """``model_signing`` then has to be told not to leave it out."""
    (model / ".gitattributes").touch()
    sign_model(model, KEY)
    assert ".gitattributes" in verify_model(model, PUBLIC).files
    with pytest.raises(ValueError, match="Missing files"):
        verified_by_them(model, model / "model.sig", keys)
    verified_by_them(model, model / "model.sig", keys, paths=[], ignore_git_paths=False)


def test_their_list_of_ignored_paths_hides_a_file_from_them_only(model: Path, keys: tuple[Path, Path]) -> None:
    """Who signs can make ``model_signing`` blind for a path; here it is refused."""
    signature = model / "model.sig"
    config = theirs(keys).set_hashing_config(hashing.Config().set_ignored_paths(paths=["plugin", "model.sig"]))
    config.sign(model, signature)
    (model / "plugin").mkdir()
    (model / "plugin" / "evil.py").touch()
    verified_by_them(model, signature, keys)
    with pytest.raises(ModelSignatureError, match=r"not signed: 'plugin/evil\.py'"):
        verify_model(model, PUBLIC)


@pytest.mark.parametrize(
    "form",
    [
        hashing.Config().use_shard_serialization(),
        hashing.Config().use_file_serialization(hashing_algorithm="blake2"),
        hashing.Config().use_file_serialization(hashing_algorithm="blake3"),
    ],
    ids=["shards", "blake2", "blake3"],
)
def test_another_way_of_hashing_is_refused(form: Any, model: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """The refusal says how to sign instead."""
    theirs(keys).set_hashing_config(form).sign(model, tmp_path / "their.sig")
    with pytest.raises(ModelSignatureError, match="sign it with the defaults"):
        verify_model(model, PUBLIC, signature=tmp_path / "their.sig")


def test_links_that_they_were_allowed_to_follow_are_refused(
    model: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """The same model with a file in the place of the link is verified."""
    link = model / "link"
    link.symlink_to("config.json")
    config = theirs(keys).set_hashing_config(hashing.Config().set_allow_symlinks(True))
    config.sign(model, tmp_path / "their.sig")
    with pytest.raises(ModelSignatureError, match="'link' is a symbolic link"):
        verify_model(model, PUBLIC, signature=tmp_path / "their.sig")
    link.unlink()
    link.write_bytes((model / "config.json").read_bytes())
    assert "link" in verify_model(model, PUBLIC, signature=tmp_path / "their.sig").files
