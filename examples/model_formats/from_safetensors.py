r"""The model is a safetensors file: numbers and nothing else. Needs ``pip install 'mlguard[safetensors]'``.

Save it with ``safetensors.numpy.save_file({"weights": ..., "offset": ...}, "iris.safetensors")``, sign it, start::

    mlguard model sign iris.safetensors --key model-key.pem
    MODEL=iris.safetensors MODEL_SIGNER=model-key.pub \
        uvicorn --no-server-header examples.model_formats.from_safetensors:app
"""

from typing import Any

from examples.model_formats.service import Rows, make_service, model_file, signer
from mlguard import load_model

tensors = load_model(model_file(), key=signer())
weights, offset = tensors["weights"], tensors["offset"]  # shapes (4, 3) and (3,)


def classify(rows: Rows) -> Any:
    """The largest of three linear scores."""
    return (rows @ weights + offset).argmax(axis=1)


app = make_service(classify)
