"""The model's input: one text, and nothing in it that a person does not see."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

from fastapi import Request
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mlguard._body_forms import BodyForm
from mlguard._guard import Control, Guard
from mlguard._order import charge_refused_input, judge_all
from mlguard.errors import InvalidInputError
from mlguard.inputs.body_formats import require_json
from mlguard.inputs.broken_rules import broken as broken_json
from mlguard.inputs.json_bodies import strict_json
from mlguard.inputs.row_settings import check_field
from mlguard.inputs.text_rules import Form, TextRules

#: The type of the one pydantic error that a text raises.
INVALID_TEXT: Final = "invalid_text"


class Text(Guard):
    r"""Reads one text from a JSON body, or is the annotation of a text in a pydantic model.

    Guards against what a person does not see and a model does: characters that turn the order of a line around (Trojan
    Source, CVE-2021-42574), zero-width characters, instructions spelled in invisible tags or variation selectors,
    control characters, halves of surrogate pairs, and against texts that are long in one measure and short in another.

    It does not stop instructions that can be read, nor letters of two alphabets that look alike.

    ::

        prompt = Text(max_length=2_000)

        @app.post("/classify")
        def classify(text: Annotated[str, Depends(prompt)]): ...

    takes ``{"text": "…"}``. For a body with more in it, the same object goes into a pydantic model::

        class Chat(BaseModel):
            question: Annotated[str, prompt]
            temperature: FiniteNumber = 0.7

    What is accepted is what the model gets, but for its normal form: in NFC (Unicode, UAX #15) "é" is one character
    however it was typed. That is the same text to Unicode. NFKC also replaces what is only like something else, and so
    can change a meaning, "2⁵" to "25"; it is for whoever asks for it.

    Line feeds, carriage returns and tabs are no control characters here. What cannot be seen is accepted where it does
    something: a joiner after a letter of Arabic, Persian, Hindi and their like, or between two emoji; a selector after
    an emoji; a direction mark in a text with right-to-left letters, though no two in a row; tags in the flags of
    England, Scotland and Wales.

    A refusal says in ``broken`` which rule and in ``position`` where, counted from 0 in characters (code points) of the
    text that was sent, as far as that is known. It repeats nothing.

    =============  ====================================================================================
    ``string``     not a string
    ``length``     more characters than ``max_length``, or fewer than ``min_length``
    ``bytes``      more bytes in UTF-8 than ``max_bytes``
    ``control``    a control character other than line feed, carriage return and tab
    ``surrogate``  half a surrogate pair
    ``undefined``  a private or unassigned character; emoji newer than this Python are let through
    ``bidi``       an embedding, override or isolate, or a direction mark where nothing runs from right
    ``hidden``     zero-width and other invisible characters where they do nothing
    ``marks``      more than 30 combining marks in a row
    ``form``       not in the normal form, with ``on_other_form="refuse"``
    ``allowed``    a character that is not in ``allowed``
    =============  ====================================================================================

    A body that is no JSON, or has other members, breaks the rules of :class:`~mlguard.Features` on that.

    Args:
        max_length: The most characters (code points), in the normal form.
        min_length: The fewest.
        max_bytes: The most bytes in UTF-8, in the normal form. None: four for each character.
        form: ``"NFC"`` or ``"NFKC"``. NFKC can make 18 characters of one; both limits are judged after that.
        on_other_form: What happens to a text in another form: ``"normalize"`` or ``"refuse"``.
        on_hidden: What happens to invisible characters and those that change directions: ``"refuse"``, or ``"remove"``
            where texts are pasted from web pages and word processors, which leave them behind.
        allowed: Ranges of characters, each as its first and last: ``[("\t", "\r"), (" ", "~")]`` is ASCII. None: all.
            Python does not know scripts or languages, so ranges it is.
        field: The only member of the body.

    Raises:
        ConfigurationError: A setting that cannot work.
    """

    control: ClassVar[Control] = Control.INPUT_VALIDATION
    statuses: tuple[int, ...] = (413, 415, 422)
    reads_body: ClassVar[bool] = True

    def __init__(
        self,
        *,
        max_length: int,
        min_length: int = 1,
        max_bytes: int | None = None,
        form: Form = "NFC",
        on_other_form: Literal["normalize", "refuse"] = "normalize",
        on_hidden: Literal["refuse", "remove"] = "refuse",
        allowed: Sequence[tuple[str, str]] | None = None,
        field: str = "text",
    ) -> None:
        self._rules = TextRules(
            max_length=max_length,
            min_length=min_length,
            max_bytes=max_bytes,
            form=form,
            on_other_form=on_other_form,
            on_hidden=on_hidden,
            allowed=allowed,
        )
        self._field = check_field(field)
        self.body_form = BodyForm("a text", frozenset({field}))

    async def __call__(self, request: Request) -> str:
        """The text in the request's body.

        Returns:
            The text in the normal form.

        Raises:
            MLGuardError: Another guard of the route refuses the request: all are judged first.
            UnsupportedMediaTypeError: The content type is not JSON in UTF-8 (415).
            BodyTooLargeError: The body is larger than ``harden`` allows (413).
            InvalidInputError: A rule is broken (422). A budget whose cost is this guard is charged one.
        """
        memory = await judge_all(request)  # who may not call is not told which content type is read
        require_json(request.scope["headers"])
        body = await request.body()
        return await memory.note_reading(self, self._judge_body(request, body))

    async def _judge_body(self, request: Request, body: bytes) -> str:
        try:
            return self._read(body)
        except InvalidInputError:
            await charge_refused_input(request, self)
            raise

    def judge(self, text: object) -> str:
        """A text from anywhere else, such as a message of a WebSocket, by the same rules. Nobody is charged.

        Returns:
            The text in the normal form.

        Raises:
            InvalidInputError: A rule is broken (422).
        """
        return self._rules.judge(text)

    def units(self, value: Any) -> int:  # noqa: ARG002  # whatever stands in it
        """One text counts as one."""
        return 1

    def openapi_body(self) -> dict[str, Any]:
        """The OpenAPI request body: an object with the text."""
        schema = {
            "type": "object",
            "properties": {self._field: self._rules.schema()},
            "required": [self._field],
            "additionalProperties": False,
        }
        return {"required": True, "content": {"application/json": {"schema": schema}}}

    def _read(self, body: bytes) -> str:
        document = strict_json(body)
        if not isinstance(document, dict):
            raise broken_json("object")
        if set(document) != {self._field}:
            raise broken_json("field")
        return self._rules.judge(document[self._field])

    def _validate(self, value: object) -> str:
        try:
            return self._rules.judge(value)
        except InvalidInputError as refusal:
            error = PydanticCustomError(INVALID_TEXT, "{detail}", {"detail": refusal.detail, **refusal.members})
        raise error  # not above: the refusal would come along

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Judge a field of a model."""
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The length."""
        return self._rules.schema()
