r"""The secret is a file in a directory, as Docker, Kubernetes and systemd mount them.

Make one, start::

    umask 077; mkdir secrets
    python -c "import secrets; print(secrets.token_urlsafe(32))" > secrets/partner
    SECRETS_DIRECTORY=secrets uvicorn --no-server-header examples.secrets_from.directory:app

In a container it is ``/run/secrets``, which is the default here. With systemd, take ``LoadCredential=`` and
``$CREDENTIALS_DIRECTORY``.
"""

import os

from examples.secrets_from.service import make_service
from mlguard import DirectorySecrets

app = make_service(DirectorySecrets(os.environ.get("SECRETS_DIRECTORY", "/run/secrets")), "partner")
