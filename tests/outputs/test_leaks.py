"""Ways in which full precision could leave all the same."""

import math
import traceback
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, PlainSerializer, SecretStr, computed_field
from starlette.requests import Request
from starlette.responses import Response
from tests.asgi import Answer, call

from mlguard import EventStream, OpenInferenceAnswer, UnsafeOutputError, harden, truncate_output

EXACT = 0.123456789


class Computing(BaseModel):
    """A model that pydantic writes as JSON in many ways."""

    number: float = EXACT
    money: Decimal = Decimal(str(EXACT))
    recent: deque[Decimal] = deque([Decimal(str(EXACT))])
    several: set[Decimal] = {Decimal(str(EXACT))}
    by_score: dict[float, str] = {EXACT: "cat"}
    by_money: dict[Decimal, str] = {Decimal(str(EXACT)): "cat"}
    ordered: OrderedDict[str, Decimal] = OrderedDict(a=Decimal(str(EXACT)))
    anything: Any = None
    hidden: SecretStr = SecretStr("k3Zq8vN1")
    masked: Annotated[str, PlainSerializer(lambda text: "***", when_used="json")] = "inside"
    in_words: Annotated[float, PlainSerializer(lambda number: "much", when_used="json")] = EXACT

    @computed_field  # type: ignore[prop-decorator]  # pydantic's way
    @property
    def computed(self) -> Decimal:
        return Decimal(str(EXACT))


def serve(answer: Any, **route: Any) -> Answer:
    app = FastAPI()

    @app.get("/predict", **route)
    @truncate_output
    def predict() -> Any:
        return answer

    harden(app)
    return call(app, method="GET")


@pytest.mark.parametrize("route", [{}, {"response_model": Computing}])
@pytest.mark.parametrize("nested", [None, {"x": [EXACT]}, {EXACT, "a"}, deque([Decimal(str(EXACT))])])
def test_no_number_hides_in_text(nested: Any, route: dict[str, Any]) -> None:
    """Computed fields, keys, collections and fractions are rounded; what a serializer of the app's own made stays."""
    answer = serve(Computing(anything=nested), **route)
    assert answer.status == 200
    assert b"1234" not in answer.body
    assert b"k3Zq8vN1" not in answer.body
    assert b"inside" not in answer.body
    assert (answer.json["computed"], answer.json["number"], answer.json["masked"]) == ("0.12", 0.12, "***")
    assert (answer.json["in_words"], list(answer.json["by_score"])) == ("much", ["0.12"])


class Streaming(BaseModel):
    numbers: Iterable[Decimal]


@pytest.mark.parametrize(
    "answer",
    [
        Computing(anything=deque([float("nan")])),
        Computing(anything=1 + 2j),
        Computing(anything={1 + 2j}),
        Computing(anything={0.5, float("inf")}),
        Computing(anything=Decimal("NaN")),
        Computing(by_score={float("inf"): "x"}),
        Computing(by_score={0.121: "x", 0.122: "y"}),
        Streaming(numbers=[Decimal(str(EXACT))]),
        {1: "a", "1": "b"},
        {True: "a", "true": "b"},
        {None: "a", "null": "b"},
    ],
    ids=repr,
)
def test_what_cannot_be_rounded_does_not_leave(answer: Any) -> None:
    """NaN in a collection, complex numbers, iterators and keys that fall together are a 500."""
    assert serve(answer).status == 500


def test_structure_that_json_mode_changes_is_the_apps_own() -> None:
    """A serializer that makes something else of a collection decides what leaves."""

    class Summary(BaseModel):
        scores: Annotated[list[float], PlainSerializer(lambda scores: "two", when_used="json")]
        named: Annotated[dict[str, float], PlainSerializer(lambda named: "one", when_used="json")]

    answer = serve(Summary(scores=[EXACT, EXACT], named={"a": EXACT}))
    assert answer.json == {"scores": "two", "named": "one"}


def test_best_class_with_negative_scores() -> None:
    """Log-odds that all round to zero or below still name the same best class in every form."""
    scores = np.array([[-0.15, -0.05, 0.05], [-0.05, -0.15, -0.04]])
    for row in (scores[:1], scores[1:], scores):
        rounded = truncate_output(row, decimals=1)
        assert rounded.argmax(axis=1).tolist() == row.argmax(axis=1).tolist()
        best = truncate_output(row, decimals=1, top_k=1)
        assert [one[0]["label"] for one in best] == truncate_output(row, decimals=1, label_only=True)


@pytest.mark.parametrize("options", [{"label_only": True}, {"top_k": 1}, {"labels": ["only"]}])
def test_one_column_is_no_class_vector(options: dict[str, Any]) -> None:
    """Scores of one class alone would always name that class."""
    with pytest.raises(UnsafeOutputError, match="1 classes"):
        truncate_output(np.array([[0.2], [0.9]]), **options)


class VendorResponse(JSONResponse):
    media_type = "application/vnd.model+json"


@pytest.mark.parametrize(
    ("response_class", "status", "media_type"),
    [
        (JSONResponse, 200, "application/json"),
        (VendorResponse, 200, "application/vnd.model+json"),
        (HTMLResponse, 500, "application/problem+json"),
        (Response, 500, "application/problem+json"),
    ],
)
def test_response_class_says_which_json(response_class: type[Response], status: int, media_type: str) -> None:
    """A media type of the app's own is kept; an answer that is no JSON cannot be truncated."""
    answer = serve({"p": EXACT}, response_class=response_class)
    assert (answer.status, answer.headers["content-type"]) == (status, media_type)


def test_endpoint_outside_of_a_fastapi_route_does_not_answer() -> None:
    """Where nobody knows the response model, nothing leaves."""

    @truncate_output
    def predict(request: Request, response: Response) -> Any:
        return {"p": EXACT, "secret": "inside"}

    with pytest.raises(UnsafeOutputError, match="which route"):
        predict(request=Request({"type": "http", "headers": []}), response=Response())


# Every policy, and every kind of answer ------------------------------------------------------------------------------

PROBABILITIES = [[0.123456789, 0.234567891, 0.64197532], [0.708192643, 0.200718291, 0.091089066]]
#: Digits that would tell more than any policy but "open" may: what follows the third one that counts, of every number.
SECRET_DIGITS = sorted({f"{number:.17f}"[4:9] for row in PROBABILITIES for number in row})


class Sub(float):
    """A float that would write itself in full."""

    def __repr__(self) -> str:
        return f"Sub({float(self)!r})"

    __str__ = __repr__


class ScoredByKey(BaseModel):
    probabilities: list[list[float]]
    by_class: dict[str, list[Decimal]]


@dataclass
class ScoredSlots:
    probabilities: Any
    copies: Any = None


def with_copies(scores: Any) -> dict[str, Any]:
    """Scores, and copies of them in places where nobody looks."""
    return {
        "probabilities": scores,
        "logits": [[Decimal(str(p)) for p in row] for row in PROBABILITIES],
        "best": {"cat": Sub(PROBABILITIES[0][0]), "dog": [np.float64(PROBABILITIES[1][0])]},
        "by_score": {PROBABILITIES[0][2]: "owl", Sub(PROBABILITIES[1][1]): "dog"},
        "arrays": [
            np.array(PROBABILITIES),
            np.array(PROBABILITIES, dtype=object),
            np.array(PROBABILITIES, dtype=np.float32),
        ],
        "set": {PROBABILITIES[0][1]},
    }


ANSWERS: dict[str, Callable[[], Any]] = {
    "array": lambda: with_copies(np.array(PROBABILITIES)),
    "float32": lambda: with_copies(np.array(PROBABILITIES, dtype=np.float32)),
    "lists": lambda: with_copies(PROBABILITIES),
    "tuples": lambda: with_copies(tuple(map(tuple, PROBABILITIES))),
    "subclass": lambda: with_copies([[Sub(p) for p in row] for row in PROBABILITIES]),
    "decimals": lambda: with_copies([[Decimal(str(p)) for p in row] for row in PROBABILITIES]),
    "scalars": lambda: with_copies([[np.float64(p) for p in row] for row in PROBABILITIES]),
    "objects": lambda: with_copies(np.array([[Decimal(str(p)) for p in row] for row in PROBABILITIES], dtype=object)),
    "dataclass": lambda: ScoredSlots(np.array(PROBABILITIES), with_copies(PROBABILITIES)),
    "model": lambda: ScoredByKey(probabilities=PROBABILITIES, by_class={"cat": [Decimal(str(PROBABILITIES[0][0]))]}),
}
TRUNCATING: list[dict[str, Any]] = [
    {"policy": "balanced"},
    {"policy": "private"},
    {"decimals": 1},
    {"top_k": 2},
    {"top_k": 1, "rest": "other"},
    {"confidence": 1.0},
    {"min_confidence": 0.66},
    {"min_confidence": 0.66, "label_only": True},
    {"bins": [0, 0.5, 1]},
    {"bins": [0, 0.5, 1], "bins_as": "edges"},
    {"significant": 2},
]


@pytest.mark.parametrize("form", ["plain", "stream", "events", "open-inference"])
@pytest.mark.parametrize("options", TRUNCATING, ids=repr)
@pytest.mark.parametrize("kind", ANSWERS)
def test_no_digit_of_the_output_leaves(kind: str, options: dict[str, Any], form: str) -> None:
    """Under every policy, in every form, the digits that may not leave are nowhere in what is sent."""
    app = FastAPI()
    route: dict[str, Any] = {"response_model": None}
    endpoint: Callable[..., Any]
    if form in {"stream", "events"}:
        route |= {"response_class": EventStream} if form == "events" else {}

        def endpoint() -> Iterator[Any]:
            yield ANSWERS[kind]()

    else:
        endpoint = ANSWERS[kind]
    if form == "open-inference":
        if "min_confidence" in options and "label_only" not in options:
            return  # which has no tensors
        options = {**options, "answer": OpenInferenceAnswer()}
    app.api_route("/predict", methods=["GET", "HEAD"], **route)(truncate_output(**options)(endpoint))
    harden(app)
    for method in ("GET", "HEAD"):
        found = call(app, method=method)
        assert found.status == 200
        sent = found.body + repr([header for header in found.headers.raw if header[0] != b"x-request-id"]).encode()
        assert not [digits for digits in SECRET_DIGITS if digits.encode() in sent]


@pytest.mark.parametrize("kind", ["array", "lists", "decimals", "model"])
def test_open_sends_those_digits(kind: str) -> None:
    """So the test above looks for something that can be found."""
    sent = serve_open(ANSWERS[kind]()).body
    assert [digits for digits in SECRET_DIGITS if digits.encode() in sent] == SECRET_DIGITS


@pytest.mark.parametrize("error", ["raises", "refuses", "NaN", "no scores"])
@pytest.mark.parametrize("options", TRUNCATING, ids=repr)
def test_no_digit_leaves_with_an_error(options: dict[str, Any], error: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither an exception's text nor an answer that may not leave shows what the model said."""
    app = FastAPI()

    @app.get("/predict")
    @truncate_output(scores="a.probabilities", **options)
    def predict() -> Any:
        if error == "raises":
            raise ValueError(PROBABILITIES)
        if error == "refuses":
            raise UnsafeOutputError(str(PROBABILITIES))
        if error == "no scores":
            return {"a": {"probabilities": None, "x": PROBABILITIES, "y": float("nan")}}
        return {"a": {"x": PROBABILITIES, "probabilities": [*PROBABILITIES, [float("nan")] * 3]}}

    harden(app)
    found = call(app, method="GET")
    assert found.status == 500
    assert not [digits for digits in SECRET_DIGITS if digits.encode() in found.body]
    if error in {"NaN", "no scores"}:  # ours; what the app's own exception says is the app's
        logged = "".join(traceback.format_exception(caplog.records[-1].exc_info[1]))  # type: ignore[index]
        assert not [digits for digits in SECRET_DIGITS if digits in logged]


# The model itself ----------------------------------------------------------------------------------------------------


class Linear:
    """A model as scikit-learn has them: all that it knows is in its attributes."""

    def __init__(self) -> None:
        self.coef_ = [EXACT]
        self.feature_names_in_ = ["income"]

    def predict(self) -> None: ...


class Network:
    """A model as deep learning frameworks have them."""

    def __init__(self) -> None:
        self.weights = [EXACT]

    def __call__(self) -> None: ...


@dataclass
class Weights:
    """A model as some frameworks have them: a dataclass that can be called."""

    weights: tuple[float, ...] = (EXACT,)

    def __call__(self) -> None: ...


class Holder:
    def __init__(self, inside: Any) -> None:
        self.inside = inside


class HoldingModel(BaseModel):
    inside: Any = None


INSIDES = [
    Linear(),
    Network(),
    Linear,
    Linear.predict,
    Linear().predict,
    len,
    math,
    lambda: 0,
    object(),
    Exception,
]


@pytest.mark.parametrize("inside", INSIDES, ids=repr)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda inside: inside,
        lambda inside: {"model": inside},
        lambda inside: {"model": [Holder(inside)]},
        lambda inside: {"model": deque([inside])},
        lambda inside: {"model": (inside,)},
        lambda inside: {"model": {"x": Holder({"y": inside})}},
        lambda inside: ScoredSlots([EXACT], inside),
        lambda inside: HoldingModel(inside=inside),
        lambda inside: {inside: 1},
    ],
)
def test_the_model_and_its_code_do_not_leave(wrap: Callable[[Any], Any], inside: Any) -> None:
    """A model, a class, a function or a module in an answer is a mistake, whose attributes would tell everything."""
    for found in (serve(wrap(inside)), serve_open(wrap(inside))):
        assert found.status == 500
        body = found.body.replace(found.headers["x-request-id"].encode(), b"")
        for text in (b"1234", b"income", b"Linear", b"coef", b"mlguard.", b"tests.", b"0x"):
            assert text not in body


def serve_open(answer: Any) -> Answer:
    app = FastAPI()
    app.get("/predict", response_model=None)(truncate_output("open")(lambda: answer))
    harden(app)
    return call(app, method="GET")


def test_a_real_estimator_does_not_leave() -> None:
    """As scikit-learn has it, wherever it is."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    for answer in (model, {"model": model}, [Holder(model)], {"p": Holder({"m": model})}):
        found = serve_open(answer)
        assert found.status == 500
        assert b"coef" not in found.body
        assert b"Logistic" not in found.body


def test_plain_objects_are_still_answers() -> None:
    """An object of the app's own that only holds data is the dict of its attributes, as FastAPI has it."""
    assert serve({"x": Holder(np.array([EXACT]))}).json == {"x": {"inside": [0.12]}}
    assert serve(Holder({"p": [EXACT, Holder(None)]})).json == {"inside": {"p": [0.12, {"inside": None}]}}


@pytest.mark.parametrize("answer", [Weights(), {"model": [Weights()]}, Holder(Weights()), ScoredSlots([1], Weights())])
def test_a_model_that_is_a_dataclass_does_not_leave(answer: Any) -> None:
    """Its fields are the weights."""
    assert serve(answer).status == 500


def test_data_may_be_called_what_a_model_does() -> None:
    """Fields named fit, predict or run are data."""

    @dataclass
    class Run:
        fit: float = EXACT
        predict: str = "yes"

    holder = Holder(1)
    holder.run = "r1"  # type: ignore[attr-defined]  # as objects may
    assert serve([Run(), holder]).json == [{"fit": 0.12, "predict": "yes"}, {"inside": 1, "run": "r1"}]


# Headers -------------------------------------------------------------------------------------------------------------

TIMES = {"X-Process-Time": "0.123456789", "Server-Timing": "model;dur=123.4", "X-Response-Time": "1", "X-Runtime": "2"}


@pytest.mark.parametrize("where", ["response", "dependency"])
def test_headers_about_time_are_not_sent(where: str) -> None:
    """How long the model took, which tells about its inside, is not sent from a truncated endpoint, hardened or not."""
    app = FastAPI()

    def tell(response: Response) -> None:
        for name, value in TIMES.items():
            response.headers[name] = value
        response.headers["X-Model"] = "m1"

    @app.get("/predict", dependencies=[Depends(tell)] if where == "dependency" else [])
    @truncate_output
    def predict(response: Response) -> Any:
        if where == "response":
            tell(response)
        return {"p": EXACT}

    headers = call(app, method="GET").headers
    assert headers["x-model"] == "m1"
    assert not {name.lower() for name in TIMES} & set(headers)


# Where fractions are in something that is written as text -------------------------------------------------------------


class Level(Enum):
    """A score that is a member of an enumeration."""

    HIGH = EXACT


class Pairs(BaseModel):
    """A model whose numbers are in a set of tuples."""

    pairs: set[tuple[str, tuple[Decimal, int]]] = {("cat", (Decimal(str(EXACT)), 1))}
    levels: dict[Level, int] = {Level.HIGH: 1}


def test_fractions_in_tuples_in_sets_and_in_keys_are_rounded() -> None:
    """However deep they are, and whatever stands for them."""
    found = serve(Pairs())
    assert found.json == {"pairs": [["cat", ["0.12", 1]]], "levels": {"0.12": 1}}


class Keyed(BaseModel):
    """A model whose keys are tuples."""

    by_pair: dict[Any, int]


@pytest.mark.parametrize("key", [(EXACT, "cat"), (("cat", Decimal(str(EXACT))),), frozenset({EXACT})])
def test_keys_that_pydantic_joins_do_not_leave(key: Any) -> None:
    """Pydantic writes a tuple that is a key as one text, in which nothing could be rounded."""
    assert serve(Keyed(by_pair={("cat", 1): 1})).json == {"by_pair": {"cat,1": 1}}
    assert serve(Keyed(by_pair={key: 1})).status == 500


def test_no_digit_leaves_with_a_warning() -> None:
    """Pydantic would warn of a field that holds something else than was declared, and repeat it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = serve(Computing.model_construct(number=[EXACT]))
    assert (found.status, found.json["number"], caught) == (200, [0.12], [])


def test_no_key_leaves_with_what_does_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    """The log says where an answer does not fit its model, but not which number was a key there."""
    found = serve({"pairs": {EXACT: "cat"}}, response_model=dict[str, dict[float, int]])
    assert found.status == 500
    assert "pairs" in caplog.text
    assert str(EXACT) not in caplog.text
