"""The real clients of MLflow and Triton, as they are, against a guarded service."""

import importlib
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pytest
from fastapi import Depends, FastAPI

from mlguard.hardening import harden
from mlguard.inputs.features import Features
from mlguard.outputs.open_inference_answers import OpenInferenceAnswer
from mlguard.outputs.truncation import truncate_output
from tests.servers import serving

triton: Any = importlib.import_module("tritonclient.http")  # neither of them is typed
refused: Any = importlib.import_module("tritonclient.utils").InferenceServerException
with warnings.catch_warnings(action="ignore", category=UserWarning):  # MLflow warns of its own type hints
    scoring: Any = importlib.import_module("mlflow.pyfunc.scoring_server.client")

NAMES = ["age", "weight", "height"]
ROWS = np.array([[30.0, 70.5, 180.0], [40.0, 80.0, 175.0]])


PEOPLE = pd.DataFrame({"age": [30.0, np.nan, 40.0], "sex": ["f", "m", None], "weight": [70.5, 80.0, 90.0]})


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[str, int]]:
    """Where a service listens that answers with the sum of each row, to either client as it expects."""
    app = FastAPI()
    harden(app)
    rows = Features(columns=NAMES, low=0, high=300, max_rows=10, formats=["open-inference", "mlflow"])

    @app.post("/invocations")
    def invocations(x: Annotated[Any, Depends(rows)]) -> Any:
        return {"predictions": x.sum(axis=1).tolist()}

    @app.post("/v2/models/people/infer")
    @truncate_output("open", answer=OpenInferenceAnswer(model_name="people", output="sum"))
    def infer(x: Annotated[Any, Depends(rows)]) -> Any:
        return x.sum(axis=1)

    people = Features(
        columns=["age", "sex", "weight"],
        low=0,
        high=300,
        max_rows=10,
        missing=["age", "sex"],
        categories={"sex": ["f", "m"]},
        formats=["open-inference", "mlflow"],
    )

    @app.post("/people/invocations")
    @app.post("/v2/models/tables/infer")
    def read(x: Annotated[Any, Depends(people)]) -> Any:
        data = np.where(np.isnan(x), -1, x).ravel().tolist()
        outputs = [{"name": "read", "datatype": "FP64", "shape": [len(data)], "data": data}]
        return {"predictions": data, "model_name": "tables", "outputs": outputs}

    with serving(app) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame(ROWS, columns=NAMES),
        pd.DataFrame(ROWS, columns=NAMES, index=["a", "b"])[["height", "age", "weight"]],
        ROWS,
        ROWS.tolist(),
        pd.DataFrame(ROWS, columns=NAMES).astype("int64", errors="ignore").assign(weight=ROWS[:, 1]),
    ],
    ids=range(5),
)
def test_mlflows_client_is_served(place: tuple[str, int], data: Any) -> None:
    """Data frames in any order of columns, arrays and lists arrive as the same rows."""
    answer = scoring.ScoringServerClient(*place).invoke(data)
    assert answer["predictions"] == ROWS.sum(axis=1).tolist()


def test_mlflows_client_learns_what_is_wrong(place: tuple[str, int]) -> None:
    """A refusal reaches whoever called, with its rule."""
    with pytest.raises(Exception, match=r"error code 422.*names"):
        scoring.ScoringServerClient(*place).invoke(pd.DataFrame(ROWS, columns=["age", "weight", "size"]))
    with pytest.raises(Exception, match=r"error code 422.*field"):
        scoring.ScoringServerClient(*place).invoke(ROWS, params={"temperature": 1})


def tensors(binary: bool, **columns: Any) -> list[Any]:
    made = []
    for name, values in columns.items():
        array = np.asarray(values)
        tensor = triton.InferInput(
            name, [*array.shape], {"f": "FP", "i": "INT"}[array.dtype.kind] + str(array.itemsize * 8)
        )
        made.append(tensor.set_data_from_numpy(array, binary_data=binary))
    return made


@pytest.mark.parametrize(
    "sent",
    [
        {"input": ROWS},
        {"input": ROWS.astype(np.float32)},
        {"height": ROWS[:, 2].astype(np.int16), "weight": ROWS[:, 1], "age": ROWS[:, 0].astype(np.int64)},
        {name: ROWS[:, [place]] for place, name in enumerate(NAMES)},
    ],
    ids=["FP64", "FP32", "columns of several datatypes", "columns"],
)
def test_tritons_client_is_served(place: tuple[str, int], sent: Any) -> None:
    """Tensors as JSON arrive as rows, and the id and the output come back, whether it was asked for or not."""
    with triton.InferenceServerClient(f"{place[0]}:{place[1]}") as client:
        wanted = [triton.InferRequestedOutput("sum", binary_data=False)]
        result = client.infer("people", tensors(False, **sent), request_id="7f", outputs=wanted)
        np.testing.assert_array_equal(result.as_numpy("sum"), ROWS.sum(axis=1))
        assert result.get_response()["id"] == "7f"
        result = client.infer("people", tensors(False, **sent))
        np.testing.assert_array_equal(result.as_numpy("sum"), ROWS.sum(axis=1))


READ = [30, 0, 70.5, -1, 1, 80, 40, -1, 90]


def test_mlflows_client_sends_texts_and_what_is_missing(place: tuple[str, int]) -> None:
    """A data frame as it is: texts become their index, and NaN, as MLflow writes it, is a missing value."""
    client = scoring.ScoringServerClient(place[0], f"{place[1]}/people")
    assert client.invoke(PEOPLE)["predictions"] == READ
    with pytest.raises(Exception, match=r"error code 422.*finite.*row.*2.*column.*2"):
        client.invoke(PEOPLE.assign(weight=[1, 2, np.nan]))


def test_tritons_client_sends_texts_and_what_is_missing(place: tuple[str, int]) -> None:
    """The same columns as tensors: texts are BYTES, which cannot be missing, and NaN is NaN."""
    sex = triton.InferInput("sex", [3], "BYTES")
    sex.set_data_from_numpy(np.array(["f", "m", "f"], dtype=object), binary_data=False)
    numbers = tensors(False, age=PEOPLE["age"].to_numpy(), weight=PEOPLE["weight"].to_numpy())
    with triton.InferenceServerClient(f"{place[0]}:{place[1]}") as client:
        result = client.infer("tables", [sex, *numbers]).as_numpy("read")
    np.testing.assert_array_equal(result, [*READ[:7], 0, 90])


def test_tritons_binary_tensors_are_refused(place: tuple[str, int]) -> None:
    """Who forgets ``binary_data=False`` is told what is not read."""
    with (
        triton.InferenceServerClient(f"{place[0]}:{place[1]}") as client,
        pytest.raises(refused) as refusal,
    ):
        client.infer("people", tensors(True, input=ROWS))
    assert refusal.value.status() == "422"
    assert '"broken":"binary"' in refusal.value.debug_details()
