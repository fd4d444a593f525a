"""The model's input: numbers of the right shape and size, and nothing else."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from fastapi import Request
from numpy.typing import ArrayLike, DTypeLike

from mlguard._guard import Control, Guard
from mlguard._order import charge_refused_input, judge_all
from mlguard.errors import InvalidInputError, UnsupportedMediaTypeError
from mlguard.inputs.json_rows import JSONRows
from mlguard.inputs.row_rules import RowRules, Rows
from mlguard.inputs.row_settings import Categories, Columns, OutOfRange

_JSON_TYPE = re.compile(rb"application/(?:[a-z0-9!#$&^_.+-]+\+)?json", re.IGNORECASE)  # RFC 6838, section 4.2
_CHARSET_UTF_8 = re.compile(rb'charset="?utf-8"?', re.IGNORECASE)


class Features(Guard):
    """Reads rows of numbers from a JSON body into an array that the model can take at once.

    Guards against what JSON lets through and a model does not survive: NaN, infinities, ``1e999``, booleans, numbers in
    strings, null, ragged and nested rows, empty or oversized batches, values that training never saw, duplicate names.
    Numbers go straight into the array, so that a batch costs a fraction of what a pydantic model costs.

    It does not stop adversarial examples within the bounds.

    ::

        iris = Features(columns=4, low=0.0, high=10.0, max_rows=1_000)

        @app.post("/predict")
        def predict(x: Annotated[np.ndarray, Depends(iris)]): ...

    takes ``{"features": [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]]}`` or ``{"features": [5.1, 3.5, 1.4, 0.2]}``.

    A refusal never repeats a value, a feature's name or the field's name. It says in ``broken`` which rule, and in
    ``row`` and ``column``, counted from 0, where it is broken, as far as that is known:

    ==============  ==================================================================================
    ``json``        the body is empty, not UTF-8, begins with a byte order mark, or is not JSON
    ``trailing``    something follows the JSON value
    ``depth``       arrays or objects are nested too deeply to be read
    ``duplicate``   an object names a member twice
    ``object``      the body is not an object
    ``field``       the object lacks the field, or has other members
    ``array``       the field, or a row, is not an array
    ``empty``       no rows, or a row without values
    ``rows``        more than ``max_rows`` rows
    ``columns``     a row is shorter or longer than ``columns``
    ``nested``      an array or object stands where a number is expected
    ``number``      a string, boolean or null stands where a number is expected
    ``finite``      NaN, an infinity, or a number that ``dtype`` cannot hold
    ``range``       a number below ``low`` or above ``high``
    ==============  ==================================================================================

    The shape is judged before the numbers, and the first fault in reading order is the one that is told.

    Args:
        columns: The number of columns, or their names. Names are kept in ``names`` and never sent.
        low: The smallest value allowed, included: one number, or one per column.
        high: The largest value allowed, included: one number, or one per column.
        max_rows: The largest batch, in rows. How large a body may be, in bytes, is up to ``harden``.
        field: The only member of the body.
        dtype: ``numpy.float64`` or ``numpy.float32``. Bounds are checked before a value is rounded to ``float32``.

    Attributes:
        columns: The number of columns.
        names: Their names, if they were given.

    Raises:
        ConfigurationError: No columns, a name that comes twice, a bound that is not finite or of the wrong length,
            ``low`` above ``high``, no rows, an impossible field or dtype.
    """

    control: ClassVar[Control] = Control.INPUT_VALIDATION
    statuses: tuple[int, ...] = (413, 415, 422)
    reads_body: ClassVar[bool] = True

    def __init__(
        self,
        *,
        columns: int | Sequence[str],
        low: float | ArrayLike,
        high: float | ArrayLike,
        max_rows: int,
        field: str = "features",
        dtype: DTypeLike = np.float64,
        missing: Columns = (),
        categories: Categories | None = None,
        out_of_range: OutOfRange = "reject",
        publish_bounds: bool = True,
    ) -> None:
        self._rules = RowRules(
            columns=columns,
            low=low,
            high=high,
            max_rows=max_rows,
            dtype=dtype,
            missing=missing,
            categories=categories,
            out_of_range=out_of_range,
            publish_bounds=publish_bounds,
        )
        self._reader = JSONRows(self._rules, field)
        self.columns = self._rules.columns
        self.names = self._rules.names

    async def __call__(self, request: Request) -> Rows:
        """The rows in the request's body.

        Returns:
            A C-contiguous, writable array of shape ``(rows, columns)`` in the dtype asked for, new for each request.

        Raises:
            MLGuardError: Another guard of the route refuses the request: all are judged first.
            UnsupportedMediaTypeError: The content type is not JSON in UTF-8 (415).
            BodyTooLargeError: The body is larger than ``harden`` allows (413).
            InvalidInputError: A rule is broken (422). A budget whose cost are these rows is charged one.
        """
        await judge_all(request)  # who may not call is not told which content type is read
        _require_json(request.scope["headers"])
        body = await request.body()
        try:
            return self._reader.read(body)
        except InvalidInputError:
            await charge_refused_input(request, self)
            raise

    def openapi_body(self) -> dict[str, Any]:
        """The OpenAPI request body: what is accepted, with an example. It tells the bounds, but no feature's name."""
        field = self._reader.field
        schema = {
            "type": "object",
            "properties": {field: {"oneOf": [self._rules.rows_schema(), self._rules.row_schema()]}},
            "required": [field],
            "additionalProperties": False,
        }
        described: dict[str, Any] = {"schema": schema}
        if (example := self._rules.example) is not None:
            described["example"] = {field: [example]}
        return {"required": True, "content": {"application/json": described}}


def _require_json(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Exactly one content type, and that JSON. Anything else is refused, whatever the body looks like.

    Browsers send other types to other origins without asking first, so this also keeps web pages from posting here.
    """
    types = [value for name, value in headers if name == b"content-type"]
    if types == [b"application/json"]:  # nearly always
        return
    if len(types) != 1 or not _is_json(types[0]):
        raise UnsupportedMediaTypeError("the content type is not JSON in UTF-8", headers={"Accept": "application/json"})


def _is_json(content_type: bytes) -> bool:
    media_type, *parameters = (part.strip(b" \t") for part in content_type.split(b";"))
    charsets = [parameter for parameter in parameters if parameter.lower().startswith(b"charset")]
    return _JSON_TYPE.fullmatch(media_type) is not None and all(map(_CHARSET_UTF_8.fullmatch, charsets))
