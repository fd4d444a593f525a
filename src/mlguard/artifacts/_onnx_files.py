"""Loads an ONNX model: a graph of known operators, in one file."""

from typing import Any

from mlguard.errors import ConfigurationError, ModelContentError


def load_onnx(content: bytes) -> Any:
    """The model, as an ``onnx.ModelProto``.

    Raises:
        ModelContentError: It is broken, or has its data in other files.
        ConfigurationError: The package is not installed.
    """
    try:
        import onnx  # noqa: PLC0415  # an extra
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # noqa: PLC0415  # untyped extra
        from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]  # noqa: PLC0415  # untyped extra
    except ImportError:
        raise ConfigurationError("the model is of ONNX: pip install 'mlguard[onnx]'") from None

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise ModelContentError("the ONNX file is broken") from None
    waiting: list[Any] = [model]
    while waiting:
        message = waiting.pop()
        if len(UnknownFieldSet(message)):
            raise ModelContentError("the ONNX file holds something that onnx does not know")
        for field, value in message.ListFields():
            if field.name in ("external_data", "data_location") and value:
                raise ModelContentError("the ONNX file has its data in other files: save it as one")
            if field.type == field.TYPE_MESSAGE:
                waiting.extend(value if _is_repeated(field) else [value])
    try:
        onnx.checker.check_model(content)
    except Exception as error:  # also what its C++ raises
        raise ModelContentError(f"the ONNX file breaks a rule of ONNX ({error!r:.300})") from None
    return model


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
