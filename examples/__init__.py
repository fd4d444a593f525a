"""Templates to copy. Each says in its first lines what it shows and how to start it.

- ``smallest``: one endpoint, one key.
- ``demo.service``: every guard, on a real model (the full example; ``python -m examples.demo`` plays it through).
- ``pydantic_only``: an app that keeps its pydantic models.
- ``signed_calls``: two services that sign what they say to each other.
- ``tls``: HTTPS with uvicorn, and nothing but HTTPS.
"""
