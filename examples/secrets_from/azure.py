r"""The secret comes from Azure Key Vault. Needs ``pip install 'mlguard[azure]'``.

Make one, start with an identity that may read it::

    az keyvault secret set --vault-name iris-prod --name partner --output none --value \
        "$(python -c "import secrets; print(secrets.token_urlsafe(32))")"
    KEY_VAULT=iris-prod uvicorn --no-server-header examples.secrets_from.azure:app

The identity needs the role *Key Vault Secrets User* on this secret, and nothing else. In Azure it is the managed
identity or that of the workload; what a developer is logged in with is not tried. ``KEY_VAULT_CA`` names the
certificates of a vault behind a private authority.
"""

import os

from examples.secrets_from.service import make_service
from mlguard import AzureSecrets

app = make_service(AzureSecrets(os.environ["KEY_VAULT"], ca=os.environ.get("KEY_VAULT_CA")), "partner")
