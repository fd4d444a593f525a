r"""The secret comes from a variable, or from the file that another variable names.

Make one, start with either::

    umask 077; python -c "import secrets; print(secrets.token_urlsafe(32))" > partner.secret
    PARTNER_SECRET="$(cat partner.secret)" uvicorn --no-server-header examples.secrets_from.environment:app
    PARTNER_SECRET_FILE=partner.secret uvicorn --no-server-header examples.secrets_from.environment:app

Child processes inherit a variable, and crash reports show it. A file is better, and a secret store is best.
"""

from examples.secrets_from.service import make_service
from mlguard import EnvironmentSecrets

app = make_service(EnvironmentSecrets(), "PARTNER_SECRET")
