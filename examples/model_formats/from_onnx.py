r"""The model is an ONNX graph. Needs ``pip install 'mlguard[onnx]'``.

Export it, sign it, start::

    mlguard model sign iris.onnx --key model-key.pem
    MODEL=iris.onnx MODEL_SIGNER=model-key.pub uvicorn --no-server-header examples.model_formats.from_onnx:app

It is run by onnx's own evaluator, which is slow. With onnxruntime, pass ``graph.SerializeToString()`` to its
``InferenceSession``: the bytes that were verified, and not the path.
"""

from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

from examples.model_formats.service import Rows, make_service, model_file, signer
from mlguard import load_model

graph = load_model(model_file(), key=signer())
evaluator = ReferenceEvaluator(graph)
(given,) = [value.name for value in graph.graph.input]


def classify(rows: Rows) -> Any:
    """The first output: the number of the class for each row."""
    outputs: Any = evaluator.run(None, {given: rows.astype(np.float32)})
    return outputs[0]


app = make_service(classify)
