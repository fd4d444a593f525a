"""One service calls another and signs each request (RFC 9421): the secret never travels, a replay is refused.

In two terminals, with the same secret::

    export SIGNING_SECRET=$(python -c "import secrets; print(secrets.token_urlsafe(32))")

    uvicorn --no-server-header examples.signed_calls.server:app
    python -m examples.signed_calls.client http://localhost:8000
"""
