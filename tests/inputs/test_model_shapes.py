"""``Features.from_model``: what models say about themselves."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mlguard.errors import ConfigurationError
from mlguard.inputs.features import Features
from tests.inputs.reading import rows_of

X, Y = np.arange(20.0).reshape(10, 2), np.arange(10) % 2
BOUNDS: dict[str, Any] = {"low": 0, "high": 9, "max_rows": 5}


def from_model(model: Any, **settings: Any) -> Features:
    return Features.from_model(model, **{**BOUNDS, **settings})


# scikit-learn -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [LogisticRegression(), make_pipeline(StandardScaler(), SVC()), GridSearchCV(SVC(), {"C": [1, 2]}, cv=2)]
)
def test_a_fitted_model_says_how_many_columns_it_takes(model: Any) -> None:
    """The number of columns is the one that the estimator, pipeline or search was fitted with."""
    guard = from_model(model.fit(X, Y))
    assert (guard.columns, guard.names) == (2, None)
    assert guard._rules.dtype == np.float64
    assert from_model(model, dtype=np.float32, field="rows", missing=[0])._rules.dtype == np.float32


def test_a_model_fitted_on_a_data_frame_says_the_names() -> None:
    """The names of a data frame's columns become the guard's, so that settings can go by them."""
    pandas = pytest.importorskip("pandas")
    model = make_pipeline(StandardScaler(), SVC()).fit(pandas.DataFrame(X, columns=["age", "weight"]), Y)
    guard = from_model(model, missing=["weight"])
    assert (guard.columns, guard.names) == (2, ("age", "weight"))


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(),
        make_pipeline("passthrough", SVC()).fit(X, Y),
        make_pipeline(StandardScaler(), SVC()),
        None,
        "model.onnx",
        SimpleNamespace(n_features_in_=None),
        SimpleNamespace(n_features_in_=0),
        SimpleNamespace(n_features_in_=2.0),
        SimpleNamespace(n_features_in_=2, feature_names_in_=["a"]),
        SimpleNamespace(n_features_in_=2, feature_names_in_=["a", "a"]),
    ],
    ids=str,
)
def test_a_model_that_says_nothing_is_refused(model: Any) -> None:
    """A model that is not fitted, or does not know, stops the start-up with what to do instead."""
    with pytest.raises(ConfigurationError, match="columns"):
        from_model(model)


def test_other_settings_are_those_of_features() -> None:
    """A typo is an error, and bounds cannot be left out."""
    model = LogisticRegression().fit(X, Y)
    with pytest.raises(TypeError):
        from_model(model, feild="rows")
    with pytest.raises(TypeError):
        Features.from_model(model, max_rows=1)  # type: ignore[call-arg]


# ONNX ---------------------------------------------------------------------------------------------------------------


def session(*inputs: tuple[Any, str]) -> Any:
    """What an ``onnxruntime.InferenceSession`` shows of itself."""
    return SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="x", shape=s, type=t) for s, t in inputs])


def proto(*inputs: tuple[Any, str], weights: bool = False) -> Any:
    """A real ``onnx.ModelProto`` with these inputs."""
    onnx = pytest.importorskip("onnx")
    kinds = {"tensor(float)": 1, "tensor(double)": 11, "tensor(int64)": 7, "tensor(uint8)": 2, "tensor(string)": 8}
    infos = [onnx.helper.make_tensor_value_info(f"x{i}", kinds[t], s) for i, (s, t) in enumerate(inputs)]
    constant = onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    if weights:
        infos.append(onnx.helper.make_tensor_value_info("w", 1, [2, 2]))
    output = onnx.helper.make_tensor_value_info("y", 1, None)
    nodes = [onnx.helper.make_node("MatMul", ["x0", "w"], ["y"])]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", infos, [output], [constant]))


@pytest.mark.parametrize("make", [session, proto])
@pytest.mark.parametrize("rows", ["N", None])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("tensor(float)", "float32"),
        ("tensor(double)", "float64"),
        ("tensor(int64)", "int64"),
        ("tensor(uint8)", "uint8"),
    ],
)
def test_an_onnx_model_says_columns_and_dtype(make: Any, rows: Any, kind: str, dtype: str) -> None:
    """Shape and element type of the one input decide what the model gets."""
    guard = from_model(make(([rows, 2], kind)))
    assert (guard.columns, guard.names, guard._rules.dtype.name) == (2, None, dtype)
    assert from_model(make(([rows, 2], kind)), dtype=dtype)._rules.dtype == dtype
    with pytest.raises(ConfigurationError, match="dtype"):
        from_model(make(([rows, 2], kind)), dtype="int16")


@pytest.mark.parametrize("make", [session, proto])
def test_a_model_of_one_row_takes_one_row(make: Any) -> None:
    """A first dimension that is fixed to 1 needs ``max_rows=1``; any other number cannot be kept."""
    assert from_model(make(([1, 2], "tensor(float)")), max_rows=1)._rules.max_rows == 1
    with pytest.raises(ConfigurationError, match="max_rows"):
        from_model(make(([1, 2], "tensor(float)")))
    with pytest.raises(ConfigurationError, match="takes 4 rows"):
        from_model(make(([4, 2], "tensor(float)")))


@pytest.mark.parametrize("make", [session, proto])
@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [(["N", 1], "tensor(float)"), (["N", 1], "tensor(float)")],
        [(["N", 28, None], "tensor(float)")],
        [(["N"], "tensor(float)")],
        [(["N", "M"], "tensor(float)")],
        [(["N", None], "tensor(float)")],
        [(["N", 0], "tensor(float)")],
        [(None, "tensor(float)")],
        [(["N", 2], "tensor(string)")],
    ],
    ids=str,
)
def test_other_onnx_models_are_refused(make: Any, inputs: Any) -> None:
    """Several inputs, other shapes and other elements are no rows of numbers."""
    with pytest.raises(ConfigurationError, match="columns"):
        from_model(make(*inputs))


@pytest.mark.parametrize("make", [session, proto])
def test_rows_of_several_dimensions_are_a_shape(make: Any) -> None:
    """An image, say."""
    guard = from_model(make((["N", 28, 28], "tensor(float)")))
    assert (guard.shape, guard.columns, guard.names) == ((28, 28), 784, None)


def test_weights_are_no_inputs() -> None:
    """Models of old versions list their weights among the inputs."""
    assert from_model(proto((["N", 2], "tensor(float)"), weights=True)).columns == 2


def test_an_onnx_model_takes_what_the_guard_gives() -> None:
    """The rows that the guard reads go into the model as they are."""
    reference = pytest.importorskip("onnx.reference")
    model = proto((["N", 2], "tensor(float)"))
    rows = rows_of(from_model(model), b'{"features":[[1,2],[3,4]]}')
    (answer,) = reference.ReferenceEvaluator(model).run(None, {"x0": rows})
    assert answer.tolist() == [[3, 3], [7, 7]]


def test_onnx_is_not_imported_to_read_a_model() -> None:
    """Whoever has no ONNX model needs no ONNX."""
    had = {name for name in sys.modules if name.partition(".")[0] in {"onnx", "onnxruntime"}}
    from_model(session((["N", 2], "tensor(float)")))
    assert {name for name in sys.modules if name.partition(".")[0] in {"onnx", "onnxruntime"}} == had
