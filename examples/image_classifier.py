r"""An image classifier: handwritten digits of 8 x 8 pixels, sent as PNG or JPEG.

Install ``mlguard[images]``. Make a key that may predict and an image, start, call::

    export KEY=$(python -c "import secrets; print(secrets.token_urlsafe(32))")
    python -c "from PIL import Image; from sklearn.datasets import load_digits; \
        Image.fromarray((load_digits().images[0] * 15).astype('uint8')).save('digit.png')"
    MLGUARD_API_KEYS="alice=$KEY;predict" uvicorn --no-server-header examples.image_classifier:app
    curl localhost:8000/predict -H "X-API-Key: $KEY" -H "Content-Type: image/png" --data-binary @digit.png

Whatever is in the file but pixels never reaches the decoder. The answer is the label alone.
"""

from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Security
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from mlguard import APIKeyAuth, APIKeys, ImageInput, QueryBudget, RateLimit, harden, truncate_output

digits = load_digits()
BRIGHTEST = 16.0  # in the data; 255 in an image
model = LogisticRegression(max_iter=5_000).fit(digits.data / BRIGHTEST, digits.target)

app = FastAPI(title="Digits")
harden(app)

caller = APIKeyAuth(APIKeys.from_env())
digit = ImageInput(mode="L", size=(8, 8), max_bytes=16_384)
steady = RateLimit("60/minute", by=caller)
budget = QueryBudget("10000/month", by=caller, cost=digit)  # in images


@app.post(
    "/predict",
    dependencies=[Security(caller, scopes=["predict"]), Depends(steady), Depends(budget)],
    response_model=None,
)
@truncate_output(label_only=True)
def predict(pixels: Annotated[NDArray[np.uint8], Depends(digit)]) -> Any:
    """Which digit it is."""
    return {"probabilities": model.predict_proba(pixels.reshape(1, -1) / 255)}
