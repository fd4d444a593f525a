"""Files of skops that would have it call what it trusts, or hide what an estimator holds."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from mlguard import NUMPY_ARRAYS, SKLEARN_ESTIMATORS, ModelContentError, load_model
from tests.artifacts.estimators import CLASSES, ROWS, forests, linear_models, preprocessing

skops = pytest.importorskip("skops.io")


def refuse(path: Path, content: bytes, **options: Any) -> str:
    """The refusal."""
    path.write_bytes(content)
    with pytest.raises(ModelContentError) as refused:
        load_model(path, unverified=True, **options)
    return str(refused.value)


def node(module: str, name: str, loader: str, **more: Any) -> dict[str, Any]:
    """A part of a schema."""
    return {"__class__": name, "__module__": module, "__loader__": loader, **more}


def plain(value: Any) -> dict[str, Any]:
    return node("builtins", type(value).__name__, "JsonNode", content=json.dumps(value), is_json=True)


def calling(module: str, name: str, *arguments: dict[str, Any]) -> bytes:
    """A file that has skops call something."""
    given = node("builtins", "tuple", "TupleNode", content=list(arguments))
    schema = node(module, name, "ConstructorFromReduceNode", content=given)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("bytes.bin", b"A" * 8)
        archive.writestr("schema.json", json.dumps({**schema, "protocol": 1, "_skops_version": "0.13"}))
    return content.getvalue()


def renamed(content: bytes, before: str, after: str) -> bytes:
    """The same file, with another name in its schema."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(changed, "w") as other:
        for name in archive.namelist():
            text = archive.read(name)
            other.writestr(name, text.replace(before.encode(), after.encode()) if name == "schema.json" else text)
    return changed.getvalue()


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("builtins", "bytes", [plain(700_000_000)]),
        ("numpy", "ndarray", [
            node("builtins", "tuple", "TupleNode", content=[plain(1)]),
            node("numpy", "object_", "TypeNode"),
            node("builtins", "bytes", "BytesNode", file="bytes.bin"),
        ]),
        ("_codecs", "encode", [plain("x"), plain("latin1")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("allow", [NUMPY_ARRAYS, SKLEARN_ESTIMATORS])
def test_what_pickles_need_for_arrays_is_not_called(
    module: str, name: str, arguments: list[dict[str, Any]], allow: Any, tmp_path: Path
) -> None:
    """A gate for pickles looks at their arguments; skops takes any."""
    said = refuse(tmp_path / "model.skops", calling(module, name, *arguments), allow=allow)
    assert f"{module}.{name}" in said


@pytest.mark.filterwarnings("ignore::UserWarning")  # the models are as small as can be
def test_every_estimator_of_the_sets_is_loaded(tmp_path: Path) -> None:
    """With the same sets as from a pickle."""
    path = tmp_path / "model.skops"
    count = 0
    for model in (*forests(), *linear_models(), *preprocessing()):
        path.write_bytes(skops.dumps(model))
        assert type(load_model(path, unverified=True, allow=SKLEARN_ESTIMATORS)) is type(model)
        count += 1
    assert count > 40


class Holder:
    """A class of the app's own, around an estimator."""

    def __init__(self, held: Any = None) -> None:
        self.held = held


@pytest.mark.parametrize("hidden", ["__getstate__", "__reduce__", "__reduce_ex__", "__getnewargs__"])
@pytest.mark.parametrize("wrap", [lambda encoder: encoder, Holder])
def test_no_attribute_hides_the_others(hidden: str, wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    """An attribute that pickle would call says nothing of what the estimator holds."""
    path = tmp_path / "model.skops"
    allow = {(Holder.__module__, "Holder")}
    encoder = OneHotEncoder().fit([[1], [2], [3]])
    outer = wrap(encoder)
    outer.zz = np.object_
    content = skops.dumps(outer)
    path.write_bytes(content)
    load_model(path, unverified=True, allow=allow)
    encoder._n_features_outs = [1]
    assert "categories" in refuse(path, skops.dumps(outer), allow=allow)
    assert "Python's own" in refuse(path, renamed(skops.dumps(outer), '"zz"', f'"{hidden}"'), allow=allow)
    assert "Python's own" in refuse(path, renamed(content, '"zz"', f'"{hidden}"'), allow=allow)


def inner(value: int) -> int:
    return value


def wrapped(value: int) -> int:
    return inner(value)


wrapped.__wrapped__ = inner  # type: ignore[attr-defined]  # as functools.wraps does


def test_a_function_may_be_wrapped(tmp_path: Path) -> None:
    """It is only named."""
    path = tmp_path / "model.skops"
    path.write_bytes(skops.dumps({"function": wrapped}))
    assert load_model(path, unverified=True, allow={(__name__, "wrapped")})["function"] is wrapped


@pytest.mark.parametrize("estimator", [SVC(), GaussianNB()])
def test_an_estimator_without_rules_has_to_be_allowed(estimator: Any, tmp_path: Path) -> None:
    """Skops trusts all of scikit-learn, whose native code may believe its numbers."""
    path = tmp_path / "model.skops"
    estimator.fit(ROWS, CLASSES)
    content = skops.dumps([StandardScaler().fit(ROWS), estimator])
    name = (type(estimator).__module__, type(estimator).__name__)
    said = refuse(path, content, allow=SKLEARN_ESTIMATORS)
    assert "no rules" in said
    assert repr(name) in said
    loaded = load_model(path, unverified=True, allow={name})
    assert (loaded[1].predict(ROWS) == CLASSES).mean() > 0.5


def test_many_problems_of_others_hide_none_of_an_estimator(tmp_path: Path) -> None:
    """What NumPy has made is not told, and takes no room from what is."""
    path = tmp_path / "model.skops"
    odd = [np.zeros(1, f"M8[{number}s]") for number in range(1, 4)]
    path.write_bytes(skops.dumps(odd))
    assert len(load_model(path, unverified=True)) == 3
    encoder = OneHotEncoder().fit([[1], [2], [3]])
    encoder._n_features_outs = [1]
    assert "categories" in refuse(path, skops.dumps([*odd, encoder]))


class Circle(Holder):
    """A class of the app's own that makes a list which holds what knows it."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.held = [state["held"]]
        state["held"].around = self.held


def test_a_list_that_is_filled_later_is_not_believed(tmp_path: Path) -> None:
    """What it is in is looked at before it is whole."""
    content = skops.dumps(Circle(OneHotEncoder().fit([[1], [2], [3]])))
    assert "changed after" in refuse(tmp_path / "model.skops", content, allow={(Circle.__module__, "Circle")})
