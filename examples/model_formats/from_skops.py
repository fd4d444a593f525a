r"""The model is a skops file, a pipeline. Needs ``pip install 'mlguard[skops]'``.

Save it with ``skops.io.dump(model, "iris.skops")``, sign it, start::

    mlguard model sign iris.skops --key model-key.pem
    MODEL=iris.skops MODEL_SIGNER=model-key.pub uvicorn --no-server-header examples.model_formats.from_skops:app
"""

from examples.model_formats.service import make_service, model_file, signer
from mlguard import load_model

pipeline = load_model(model_file(), key=signer())  # what skops trusts by itself, and nothing of yours
app = make_service(pipeline.predict)
