"""A store of models: every version is signed with its record, and nothing but what was promoted is served."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlguard import (
    MODEL_SCOPES,
    ConfigurationError,
    InsufficientScopeError,
    ModelContentError,
    ModelDecryptionError,
    ModelRefusedError,
    ModelSignatureError,
    ModelStore,
    Principal,
    sign_model,
)
from mlguard.artifacts._promotions import read_promotions
from mlguard.artifacts.allowed_globals import SKLEARN_LINEAR

X, Y = load_iris(return_X_y=True)
KEY = generate_private_key(SECP256R1())
STRANGER = generate_private_key(SECP256R1())
SECRETS = [bytes(np.random.default_rng(seed).bytes(32)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models, each another one."""
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / f"iris-{number}.joblib" for number in range(3)]
    for number, path in enumerate(paths):
        joblib.dump(LogisticRegression(C=1.0 + number, max_iter=500).fit(X, Y), path)
    return paths


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", key=KEY.public_key(), signing_key=KEY)


def load(store: ModelStore, *args: Any, **more: Any) -> Any:
    return store.load("iris", *args, allow=SKLEARN_LINEAR, **more)


def strength(model: Any) -> float:
    return float(model.C)


# Versions -------------------------------------------------------------------------------------------------------------


def test_a_saved_model_can_be_loaded(store: ModelStore, files: list[Path]) -> None:
    """By its number, as the latest, and once it is promoted without saying which."""
    for number, path in enumerate(files, 1):
        assert store.save("iris", path).version == number
    assert strength(load(store, "latest")) == 3.0
    assert strength(load(store, 1)) == 1.0
    store.promote("iris", 2)
    assert strength(load(store)) == 2.0
    assert (store.names(), store.versions("iris")) == (["iris"], [1, 2, 3])
    assert load(store).predict(X[:1]).tolist() == [0]


def test_a_record_says_where_a_model_comes_from(store: ModelStore, files: list[Path]) -> None:
    """Code, data, environment, who and when, under the same signature as the model."""
    alice = Principal("alice", scopes=frozenset({"models:save", "models:list"}), method="api-key")
    saved = store.save("iris", files[0], code_version="3f2c", data_version="2026-11", by=alice)
    (listed,) = store.list("iris", by=alice)
    found = store.find("iris", 1)
    assert saved == listed == found
    assert (found.lineage.code, found.lineage.data, found.saved_by) == ("3f2c", "2026-11", "alice")
    assert found.lineage.environment["python"] == sys.version.split()[0]
    assert found.lineage.environment["numpy"] == np.__version__
    assert found.size == files[0].stat().st_size
    assert len(found.digest) == len(found.signer) == 64
    other = store.save("iris", files[0], environment={"R": "4.5"})
    assert dict(other.lineage.environment) == {"R": "4.5"}
    assert other.digest != found.digest


def test_the_latest_of_nothing(store: ModelStore, files: list[Path]) -> None:
    """What is not there is not loaded, and the error says what to do."""
    for version in ("latest", 1, "promoted", True, "2", -1):
        with pytest.raises(ConfigurationError, match=r"no such version|promote one"):
            store.find("iris", version)  # type: ignore[arg-type]
    assert (store.names(), store.versions("iris"), store.list("iris"), store.promoted("iris")) == ([], [], [], None)
    store.save("iris", files[0])
    with pytest.raises(ConfigurationError, match="promote one"):
        load(store)


@pytest.mark.parametrize(
    "name", ["", "..", "../iris", "a/b", "Iris", ".iris", "a" * 65, "iris\n", "a@1", "a.", "nul", "con.1", None, 3]
)
def test_names_stay_in_the_folder(store: ModelStore, files: list[Path], name: Any) -> None:
    """A name that would lead out of the store, or be another one on some file system, is refused."""
    with pytest.raises(ConfigurationError, match="lower-case"):
        store.save(name, files[0])
    with pytest.raises(ConfigurationError, match="lower-case"):
        store.find(name, 1)
    with pytest.raises(ConfigurationError, match="lower-case"):
        store.versions(name)


def test_other_folders_are_no_models(store: ModelStore, files: list[Path]) -> None:
    """Whoever may write to the store cannot keep all its models from being listed by one odd folder."""
    store.save("iris", files[0])
    for name in ("Iris", "\x1b[31m", "lost+found"):
        (store.root / name / "versions").mkdir(parents=True)
    assert store.names() == ["iris"]


def test_what_cannot_be_saved(store: ModelStore, tmp_path: Path, files: list[Path]) -> None:
    """A folder, a pipe, a long text: nothing is saved, and the next number is still free."""
    pipe = tmp_path / "pipe.joblib"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        with pytest.raises((ConfigurationError, OSError)):
            store.save("iris", path)
    with pytest.raises(ConfigurationError, match="1 000"):
        store.save("iris", files[0], code_version="x" * 1_001)
    with pytest.raises(FileNotFoundError):
        store.save("iris", tmp_path / "none.joblib")
    for ending in (".jo$b", "." + "j" * 21):
        with pytest.raises(ConfigurationError, match="letters and digits"):
            store.save("iris", _renamed(files[0], f"odd{ending}"))
    with pytest.raises(ConfigurationError, match="1 MiB"):  # it could never be read again
        store.save("iris", files[0], environment={str(number): "x" * 1_000 for number in range(1_050)})
    for odd in ("x" * 1_001, "\ud800"):
        with pytest.raises(ConfigurationError, match="the id of a principal"):
            store.save("iris", files[0], by=Principal(odd, scopes=frozenset({"models:save"})))
    assert store.save("iris", files[0]).version == 1


def test_a_service_without_the_key_only_loads(store: ModelStore, files: list[Path]) -> None:
    """Who has the public key alone can neither save nor promote."""
    store.save("iris", files[0])
    reader = ModelStore(store.root, key=KEY.public_key())
    assert strength(load(reader, "latest")) == 1.0
    with pytest.raises(ConfigurationError, match="signing_key"):
        reader.save("iris", files[0])
    with pytest.raises(ConfigurationError, match="signing_key"):
        reader.promote("iris", 1)
    assert reader.versions("iris") == [1]
    assert repr(reader) == f"ModelStore({str(store.root)!r})"
    for root in ("", None):
        with pytest.raises(ConfigurationError, match="path of a folder"):
            ModelStore(root, key=KEY.public_key())  # type: ignore[arg-type]


# Promotions -----------------------------------------------------------------------------------------------------------


def test_a_promotion_can_be_taken_back(store: ModelStore, files: list[Path]) -> None:
    """Step by step, to the first; a version that is promoted twice counts once."""
    for path in files:
        store.save("iris", path)
    for version in (1, 2, 2, 3):
        assert store.promote("iris", version).version == version
    assert store.promoted("iris") == 3
    assert [store.rollback("iris").version, store.promoted("iris")] == [2, 2]
    assert store.rollback("iris").version == 1
    with pytest.raises(ConfigurationError, match="no other version"):
        store.rollback("iris")
    assert store.promote("iris", "latest").version == 3
    assert store.rollback("iris").version == 1
    assert strength(load(store)) == 1.0


def test_who_may_do_what(store: ModelStore, files: list[Path]) -> None:
    """Each action needs its scope, if a principal asks for it; without it nothing happens."""
    store.save("iris", files[0])
    store.save("iris", files[1])
    store.promote("iris", 1)
    store.promote("iris", 2)
    actions: dict[str, Callable[[Principal], Any]] = {
        "save": lambda who: store.save("iris", files[0], by=who),
        "load": lambda who: load(store, by=who),
        "list": lambda who: store.list("iris", by=who),
        "promote": lambda who: store.promote("iris", 1, by=who),
        "rollback": lambda who: store.rollback("iris", by=who),
    }
    assert actions.keys() == MODEL_SCOPES.keys()
    for action, run in actions.items():
        others = frozenset(MODEL_SCOPES.values()) - {MODEL_SCOPES[action]}
        with pytest.raises(InsufficientScopeError) as raised:
            run(Principal("mallory", scopes=others))
        assert raised.value.status_code == 403
        vague = frozenset({f"no-{MODEL_SCOPES[action]}s"})
        nobodies: list[Any] = [None, "alice", Principal("eve", scopes=vague)]
        for nobody in nobodies:
            with pytest.raises(InsufficientScopeError):
                run(nobody)
    assert (store.versions("iris"), store.promoted("iris")) == ([1, 2], 2)
    for action in ("promote", "save", "list", "load"):
        actions[action](Principal("alice", scopes=frozenset({MODEL_SCOPES[action]})))


# Attacks --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def full(store: ModelStore, files: list[Path]) -> ModelStore:
    """Three versions of one model, of which the second is promoted, and one of another."""
    for path in files:
        store.save("iris", path)
    store.save("wine", files[2])
    store.promote("iris", 1)
    store.promote("iris", 2)
    return store


def place(store: ModelStore, number: int, file: str = "", *, kind: str = "versions", name: str = "iris") -> Path:
    return store.root / name / kind / str(number) / file


def flip(path: Path, at: int = -20) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["model.joblib", "record.json", "model.sig"])
def test_one_byte_is_enough(full: ModelStore, file: str) -> None:
    """Whatever file of a version is altered, extra, missing or a link: it is not loaded."""
    good = place(full, 2, file).read_bytes()
    flip(place(full, 2, file))
    with pytest.raises(ModelSignatureError):
        load(full)
    place(full, 2, file).unlink()
    with pytest.raises(ModelSignatureError):
        load(full)
    shutil.copy(place(full, 1, file), place(full, 2, file))
    with pytest.raises(ModelSignatureError):
        load(full)
    place(full, 2, file).write_bytes(good)
    assert strength(load(full)) == 2.0
    (place(full, 2) / "more.py").write_text("1")
    with pytest.raises(ModelSignatureError, match="there and not signed"):
        load(full)


def test_one_version_is_not_another(full: ModelStore) -> None:
    """A version under another's number or name is refused, although it was signed by the right key."""
    for source, target in ((place(full, 1), place(full, 2)), (place(full, 1, name="wine"), place(full, 3))):
        shutil.rmtree(target)
        shutil.copytree(source, target)
    for version in (2, 3, "latest", "promoted"):
        with pytest.raises(ModelSignatureError, match="another name"):
            load(full, version)
    with pytest.raises(ModelSignatureError):
        full.list("iris")
    assert strength(load(full, 1)) == 1.0


def test_a_stranger_cannot_promote(full: ModelStore) -> None:
    """A promotion that is forged, signed by another key or copied from elsewhere stops everything."""
    theirs = ModelStore(full.root, key=STRANGER.public_key(), signing_key=STRANGER)
    with pytest.raises(ModelSignatureError):
        theirs.promote("iris", 1)
    shutil.copytree(place(full, 1, kind="promotions"), place(full, 3, kind="promotions"))
    with pytest.raises(ModelSignatureError):
        load(full)
    with pytest.raises(ModelSignatureError):
        full.promoted("iris")
    with pytest.raises(ModelSignatureError):
        full.rollback("iris")
    record = json.loads(place(full, 1, "record.json", kind="promotions").read_bytes())
    record["number"] = 3
    place(full, 3, "record.json", kind="promotions").write_text(json.dumps(record))
    sign_model(place(full, 3, kind="promotions"), STRANGER, name="iris@promotion-3")
    with pytest.raises(ModelSignatureError):
        load(full)
    assert strength(load(full, 2)) == 2.0


def test_a_version_without_its_record_is_not_listed(full: ModelStore) -> None:
    """A list needs the record, and trusts nothing else about a version."""
    place(full, 2, "record.json").unlink()
    with pytest.raises(ModelSignatureError, match="record cannot be read"):
        full.look_at("iris", 2)
    os.mkfifo(place(full, 2, "record.json"))
    with pytest.raises(ModelSignatureError, match="record is no file"):
        full.look_at("iris", 2)
    place(full, 2, "record.json").unlink()
    place(full, 2, "record.json").symlink_to(place(full, 1, "record.json"))
    with pytest.raises(ModelSignatureError, match="record cannot be read"):
        full.look_at("iris", 2)


def test_a_missing_promotion_is_seen(full: ModelStore) -> None:
    """One in the middle; of the last one it is said that it cannot be."""
    full.promote("iris", 3)
    shutil.rmtree(place(full, 2, kind="promotions"))
    with pytest.raises(ModelSignatureError, match="promotion 2"):
        load(full)


def test_a_promoted_version_is_that_very_one(full: ModelStore, files: list[Path]) -> None:
    """A version that was deleted and saved again under its number is not the one that was promoted."""
    shutil.rmtree(place(full, 2))
    shutil.rmtree(place(full, 3))
    assert full.save("iris", files[1], code_version="other").version == 2
    with pytest.raises(ModelSignatureError, match="not the one that was promoted"):
        load(full)
    full.promote("iris", 1)
    with pytest.raises(ModelSignatureError, match="not the one that was promoted"):
        full.rollback("iris")


def test_a_signed_folder_that_is_no_version(full: ModelStore) -> None:
    """What the right key has signed under the right name, with another record or files, is no version."""
    for change in ({"version": 2}, {"name": "wine"}, {"file": "model.pkl"}, {"file": "../model.joblib"}, {"more": 1}):
        shutil.rmtree(place(full, 4), ignore_errors=True)
        shutil.copytree(place(full, 3), place(full, 4))
        record = {**json.loads(place(full, 3, "record.json").read_bytes()), "version": 4, **change}
        place(full, 4, "record.json").write_text(json.dumps(record))
        sign_model(place(full, 4), KEY, name="iris@4")
        with pytest.raises(ModelSignatureError, match=r"another one|none that"):
            load(full, 4)
        with pytest.raises(ModelSignatureError, match=r"another one|none that"):
            full.look_at("iris", 4)


@pytest.mark.parametrize("moment", ["yesterday", "2026-11-01", "2026-11-01T10:00:00", "0001-01-01T00:00:00+14:00"])
def test_a_signed_time_that_is_none(moment: str, full: ModelStore) -> None:
    """It is refused as any other record that cannot be read."""
    for kind, name, key in (("versions", "iris@4", "saved_at"), ("promotions", "iris@promotion-3", "at")):
        target = place(full, int(name[-1]), kind=kind)
        shutil.copytree(place(full, 1, kind=kind), target)
        record = json.loads((target / "record.json").read_bytes())
        number = {"version": 4} if kind == "versions" else {"number": 3}
        (target / "record.json").write_text(json.dumps({**record, **number, key: moment}))
        sign_model(target, KEY, name=name)
    with pytest.raises(ModelSignatureError, match="none that"):
        full.find("iris", 4)
    with pytest.raises(ModelSignatureError, match="none that"):
        full.promoted("iris")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_signed_step_back_to_what_was_not_before(version: int, full: ModelStore) -> None:
    """What is served after it is what it says, or nothing."""
    for number in (3, 4):
        target = place(full, number, kind="promotions")
        shutil.copytree(place(full, 1, kind="promotions"), target)
        record = json.loads((target / "record.json").read_bytes())
        back = {"number": number, "action": "rollback", "version": version}
        (target / "record.json").write_text(json.dumps({**record, **back}))
        sign_model(target, KEY, name=f"iris@promotion-{number}")
    with pytest.raises(ModelSignatureError, match="goes back to another"):
        full.promoted("iris")


def test_the_gate_stands_behind_the_signature(full: ModelStore) -> None:
    """Signed or not, a pickle names only what is allowed."""
    with pytest.raises(ModelContentError, match="not allowed"):
        full.load("iris")


def test_a_file_that_changes_while_it_is_saved(
    store: ModelStore, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of one model and half of another is no model."""
    moving = tmp_path / "moving.joblib"
    shutil.copy(files[0], moving)
    marks = iter([1, 2])
    monkeypatch.setattr("mlguard.artifacts.model_store._marks", lambda _: next(marks))
    with pytest.raises(ConfigurationError, match="was changed"):
        store.save("iris", moving)
    assert store.versions("iris") == []


# Encryption -----------------------------------------------------------------------------------------------------------


def test_encrypted_versions(store: ModelStore, files: list[Path]) -> None:
    """What is on the disk is no model; with the key it is one, and under another or without it is refused."""
    pytest.importorskip("tink")
    writer = ModelStore(store.root, key=KEY.public_key(), signing_key=KEY, encryption_key=SECRETS[0])
    found = writer.save("iris", files[0])
    assert found.encrypted
    assert found.path.name == "model.joblib.enc"
    assert b"sklearn" in files[0].read_bytes()
    assert not any(b"sklearn" in path.read_bytes() for path in store.root.rglob("*") if path.is_file())
    assert strength(load(writer, 1)) == 1.0
    assert strength(load(ModelStore(store.root, key=KEY.public_key(), encryption_key=SECRETS[::-1]), 1)) == 1.0
    with pytest.raises(ModelDecryptionError, match="under the key"):
        load(ModelStore(store.root, key=KEY.public_key(), encryption_key=SECRETS[1]), 1)
    with pytest.raises(ConfigurationError, match="encryption_key"):
        load(store, 1)
    with pytest.raises(ConfigurationError, match="max_size"):
        load(writer, 1, max_size=100)
    with pytest.raises(ConfigurationError, match=r"no such|suffix|format"):
        writer.load_version(writer.save("iris", _renamed(files[0], "iris.model")), allow=SKLEARN_LINEAR)
    flip(found.path)
    with pytest.raises(ModelSignatureError):
        load(writer, 1)


def _renamed(path: Path, name: str) -> Path:
    copy = path.with_name(name)
    shutil.copy(path, copy)
    return copy


# Several at once, and crashes -----------------------------------------------------------------------------------------


def test_everybody_gets_a_number_of_their_own(store: ModelStore, files: list[Path]) -> None:
    """Threads that save, promote and load at once: no number twice, none left out, and no half version is seen."""
    store.save("iris", files[0])
    store.promote("iris", 1)

    def work(at: int) -> int:
        version = store.save("iris", files[at % 3]).version
        if at % 2:
            store.promote("iris", version)
        load(store)
        return version

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(work, range(18))) == [*range(2, 20)]
    assert len(store.list("iris")) == 19
    assert store.promoted("iris") is not None


def test_two_who_take_the_same_promotion_back(full: ModelStore) -> None:
    """One of them does, and the other is told; the model does not go back by two."""
    full.promote("iris", 3)
    seen = read_promotions(full.root / "iris" / "promotions", KEY.public_key(), "iris")

    def rollback(_: int) -> str:
        try:
            full.rollback("iris")
        except ConfigurationError as error:
            return str(error)
        return ""

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr("mlguard.artifacts.model_store.read_promotions", lambda *_: seen)
        said = sorted(pool.map(rollback, range(2)))
    assert said[0] == ""
    assert "somebody else" in said[1]
    assert full.promoted("iris") == 2


def pem(key: EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


SAVING = """
import sys
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from mlguard import ModelStore
key = load_pem_private_key(sys.argv[3].encode(), None)
store = ModelStore(sys.argv[1], key=key.public_key(), signing_key=key)
while True:
    print(store.save("iris", sys.argv[2]).version, flush=True)
    store.promote("iris", "latest")
"""


def test_a_killed_process_leaves_no_half_version(store: ModelStore, tmp_path: Path) -> None:
    """Killed anywhere in the middle, again and again: what is there verifies, and the next one goes on."""
    large = tmp_path / "large.npy"
    np.save(large, np.arange(400_000.0))
    killed = 0
    for round_ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", SAVING, str(store.root), str(large), pem(KEY)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            versions = [int(process.stdout.readline()) for _ in range(1 + round_ % 2)]
            os.kill(process.pid, signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        assert max(store.versions("iris")) >= versions[-1]
        for number in store.versions("iris"):
            assert store.find("iris", number).version == number
        promoted = store.promoted("iris")
        assert promoted is None or promoted in store.versions("iris")
    assert killed == 6
    last = store.save("iris", large).version
    assert store.versions("iris") == [*range(1, last + 1)]
    assert not [left for left in (store.root / "iris" / "versions").iterdir() if left.name.startswith(".")]


def test_only_what_was_left_unfinished_is_removed(store: ModelStore, files: list[Path], tmp_path: Path) -> None:
    """Not what else is hidden in the folder, not through a link; and none of it keeps the next version out."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    store.save("iris", files[0])
    versions = store.root / "iris" / "versions"
    (versions / ".2.abcd_123" / "model").mkdir(parents=True)
    (versions / ".git").mkdir()
    (versions / ".DS_Store").touch()
    (versions / ".2.abcd1234").symlink_to(home)
    (versions / ".3.abcd1234").touch()
    assert store.save("iris", files[0]).version == 2
    hidden = {entry.name for entry in versions.iterdir() if entry.name.startswith(".")}
    assert hidden == {".git", ".DS_Store", ".2.abcd1234", ".3.abcd1234"}
    (store.root / "wine").mkdir()
    (store.root / "wine" / "versions").symlink_to(home)
    store.save("wine", files[0])
    assert (home / ".ssh").is_dir()


def test_refusals_have_one_root() -> None:
    """Who starts a service catches one error for all that is wrong with a model."""
    assert issubclass(ModelSignatureError, ModelRefusedError)
