"""The model's input: numbers of the right shape and size, and nothing else."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from fastapi import Request
from numpy.typing import ArrayLike, DTypeLike

from mlguard._guard import Control, Guard
from mlguard._order import charge_refused_input, judge_all
from mlguard.errors import InvalidInputError
from mlguard.inputs.body_formats import BodyFormats
from mlguard.inputs.row_rules import RowRules, Rows


class Features(Guard):
    """Reads rows of numbers from a body into an array that the model can take at once.

    Guards against what JSON and other formats let through and a model does not survive: NaN, infinities, ``1e999``,
    booleans, numbers in strings, null, ragged and nested rows, empty or oversized batches, values that training never
    saw, duplicate names, columns in another order, files that say one thing of themselves and hold another. Numbers go
    straight into the array, so that a batch costs a fraction of what a pydantic model costs.

    It does not stop adversarial examples within the bounds.

    ::

        iris = Features(columns=4, low=0.0, high=10.0, max_rows=1_000)

        @app.post("/predict")
        def predict(x: Annotated[np.ndarray, Depends(iris)]): ...

    takes ``{"features": [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]]}`` or ``{"features": [5.1, 3.5, 1.4, 0.2]}``.

    Where columns have names, rows may be objects with one member for each column, in any order. ``formats`` turns on
    what clients of other servers send; the content type and the shape of the document say which one it is:

    ======================  =====================================================================================
    ``"json"``              ``application/json``, the field of our own, as above
    ``"open-inference"``    ``application/json``, version 2 of the protocol: one tensor of all columns with any
                            name, or one for each column. Data in JSON: the binary extension is refused
    ``"mlflow"``            ``application/json``: ``dataframe_split``, ``dataframe_records``, ``instances``,
                            ``inputs``. ``params`` are refused
    ``"npy"``               ``application/x-npy``: floating-point numbers and integers of any byte order. No
                            objects, so never a pickle
    ``"csv"``               ``text/csv`` in UTF-8 after RFC 4180, with a header row
    ======================  =====================================================================================

    Wherever names come with the columns, they are matched: in any order, each one once, and no others.

    A refusal never repeats a value, a feature's name or the field's name. It says in ``broken`` which rule, and in
    ``row`` and ``column``, counted from 0 as they were sent, where it is broken, as far as that is known:

    ==============  ==================================================================================
    ``json``        the body is empty, not UTF-8, begins with a byte order mark, or is not JSON
    ``trailing``    something follows the JSON value
    ``depth``       arrays or objects are nested too deeply to be read
    ``duplicate``   an object names a member twice
    ``object``      the body is not an object
    ``field``       an object lacks a member, has others than expected, or one of the wrong kind
    ``array``       the field, or a row, is not an array
    ``empty``       no rows, or a row without values
    ``rows``        more than ``max_rows`` rows
    ``columns``     a row is shorter or longer than ``columns``, or not of the ``shape``
    ``nested``      an array or object stands where a number is expected
    ``number``      a string, boolean or null stands where a number is expected
    ``finite``      NaN, an infinity, or a number that ``dtype`` cannot hold
    ``range``       a number below ``low`` or above ``high``
    ``record``      a row is not an object, where others are
    ``names``       a column's name is missing, unknown or there twice, or names are not expected
    ``index``       an index that has not one entry for each row
    ``shape``       a stated shape is not that of rows, or not that of the data
    ``datatype``    a tensor or file of something else than numbers, or a number that its datatype cannot hold
    ``binary``      data of Open Inference's binary extension
    ``npy``         the body is not a ``.npy`` file
    ``length``      a file's data is shorter or longer than its header says
    ``csv``         the body is not CSV, not UTF-8, or begins with a byte order mark
    ``header``      the first line of a table is made of numbers
    ==============  ==================================================================================

    The shape is judged before the numbers, and the first fault in reading order is the one that is told; where columns
    are matched by name, the first in the order of ``columns``. In a tensor, ``column`` counts the values of a row.

    Args:
        columns: The number of columns, or their names. Names are kept in ``names`` and never sent: callers who match
            by name get them from you.
        shape: Instead of columns, the shape of one row, such as ``(28, 28)``. JSON is nested accordingly, and files
            and tensors have the shape ``(rows, *shape)``.
        low: The smallest value allowed, included: one number, or one per column, or an array of the shape.
        high: The largest value allowed, included: one number, or one per column, or an array of the shape.
        max_rows: The largest batch, in rows. How large a body may be, in bytes, is up to ``harden``.
        field: The only member of the body in our own JSON.
        dtype: ``numpy.float64`` or ``numpy.float32``. Bounds are checked before a value is rounded to ``float32``.
        formats: Names of the formats that are read.

    Attributes:
        columns: The number of columns, or of the values in a row.
        names: Their names, if they were given.
        shape: The shape of one row.

    Raises:
        ConfigurationError: Neither columns nor a shape, or both; a name that comes twice, a bound that is not finite or
            of the wrong length, ``low`` above ``high``, no rows, an impossible field or dtype; no format, one that
            there is not, or CSV for tensors.
    """

    control: ClassVar[Control] = Control.INPUT_VALIDATION
    statuses: tuple[int, ...] = (413, 415, 422)
    reads_body: ClassVar[bool] = True

    def __init__(
        self,
        *,
        columns: int | Sequence[str] | None = None,
        shape: Sequence[int] | None = None,
        low: float | ArrayLike,
        high: float | ArrayLike,
        max_rows: int,
        field: str = "features",
        dtype: DTypeLike = np.float64,
        formats: Iterable[str] = ("json",),
    ) -> None:
        self._rules = RowRules(columns=columns, shape=shape, low=low, high=high, max_rows=max_rows, dtype=dtype)
        self._formats = BodyFormats(formats, self._rules, field)
        self.columns = self._rules.columns
        self.names = self._rules.names
        self.shape = self._rules.shape

    async def __call__(self, request: Request) -> Rows:
        """The rows in the request's body.

        Returns:
            A C-contiguous, writable array of shape ``(rows, columns)``, or ``(rows, *shape)``, in the dtype asked for,
            new for each request.

        Raises:
            MLGuardError: Another guard of the route refuses the request: all are judged first.
            UnsupportedMediaTypeError: The content type is none of those that are read (415).
            BodyTooLargeError: The body is larger than ``harden`` allows (413).
            InvalidInputError: A rule is broken (422). A budget whose cost are these rows is charged one.
        """
        memory = await judge_all(request)  # who may not call is not told which content type is read
        reader = self._formats.reader_for(request.scope["headers"])
        body = await request.body()
        try:
            sent = reader.sent(body)
            memory.inference_call = sent.call
            return sent.judged(self._rules)
        except InvalidInputError:
            await charge_refused_input(request, self)
            raise

    def openapi_body(self) -> dict[str, Any]:
        """The OpenAPI request body: what is accepted, with examples. It tells the bounds, but no feature's name."""
        return {"required": True, "content": self._formats.openapi_content()}
