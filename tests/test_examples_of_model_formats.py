"""A model in each format is verified, goes through the gate, and is served; an altered one is not."""

import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlguard import sign_model
from tests.artifacts.models import KEY, PUBLIC, public_pem
from tests.test_examples import client, started

X, Y = load_iris(return_X_y=True)
ROWS = X[[0, 149]].tolist()


def with_joblib(path: Path) -> None:
    joblib.dump(RandomForestClassifier(10, random_state=0).fit(X, Y), path, compress=3)


def with_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(RandomForestClassifier(10, random_state=0).fit(X, Y)))


def with_skops(path: Path) -> None:
    skops: Any = importlib.import_module("skops.io")
    skops.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y), path)


def linear() -> dict[str, Any]:
    model = LogisticRegression(max_iter=1_000).fit(X, Y)
    return {"weights": np.ascontiguousarray(model.coef_.T), "offset": model.intercept_}


def with_safetensors(path: Path) -> None:
    importlib.import_module("safetensors.numpy").save_file(linear(), path)


def with_npz(path: Path) -> None:
    np.savez(path, **linear())


def with_onnx(path: Path) -> None:
    onnx: Any = importlib.import_module("onnx")
    helper, floats, whole = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    tensors = linear()
    nodes = [
        helper.make_node("Gemm", ["x", "weights", "offset"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["classes"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "iris",
        [helper.make_tensor_value_info("x", floats, [None, 4])],
        [helper.make_tensor_value_info("classes", whole, [None])],
        [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


FORMATS: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "joblib": ("iris.joblib", "joblib", with_joblib),
    "pickle": ("iris.pkl", "pickle", with_pickle),
    "skops": ("iris.skops", "skops", with_skops),
    "safetensors": ("iris.safetensors", "safetensors", with_safetensors),
    "npz": ("iris.npz", "numpy", with_npz),
    "onnx": ("iris.onnx", "onnx", with_onnx),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_signed_model_is_served(name: str, tmp_path: Path) -> None:
    """By the command that the example names."""
    file, package, save = FORMATS[name]
    pytest.importorskip(package)
    save(tmp_path / file)
    sign_model(tmp_path / file, KEY)
    (tmp_path / "key.pub").write_bytes(public_pem(PUBLIC))
    places = {"MODEL": str(tmp_path / file), "MODEL_SIGNER": str(tmp_path / "key.pub")}
    with started(f"model_formats/from_{name}", **places) as running, client(running.url()) as http:
        answer = http.post("/predict", json={"features": ROWS})
        assert answer.json() == {"species": ["setosa", "virginica"]}


def test_an_altered_model_is_not_served(tmp_path: Path) -> None:
    """The service does not start, and says why."""
    with_npz(tmp_path / "iris.npz")
    sign_model(tmp_path / "iris.npz", KEY)
    (tmp_path / "iris.npz").write_bytes((tmp_path / "iris.npz").read_bytes() + b"\0")
    (tmp_path / "key.pub").write_bytes(public_pem(PUBLIC))
    places = {"MODEL": str(tmp_path / "iris.npz"), "MODEL_SIGNER": str(tmp_path / "key.pub")}
    with started("model_formats/from_npz", **places) as running:
        running.wait_for("ModelSignatureError: the file is not the one that was signed")
        assert running.process.wait(120) == 1
