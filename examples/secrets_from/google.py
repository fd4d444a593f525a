r"""The secret comes from Google Secret Manager. Needs ``pip install 'mlguard[gcp]'``.

Make one, start with an account that may read it::

    python -c "import secrets; print(secrets.token_urlsafe(32))" | gcloud secrets create partner --data-file=-
    GOOGLE_PROJECT=iris-prod uvicorn --no-server-header examples.secrets_from.google:app

The account needs the role *Secret Manager Secret Accessor* on this secret, and nothing else. On Google Cloud it is that
of the workload: make no key file. ``SECRET_MANAGER`` is the host of a region, for secrets that must stay there.
"""

import os

from examples.secrets_from.service import make_service
from mlguard import GoogleSecrets

source = GoogleSecrets(os.environ["GOOGLE_PROJECT"], endpoint=os.environ.get("SECRET_MANAGER"))
app = make_service(source, "partner")
