"""A guarded model service under uvicorn, and a session with it over real sockets.

::

    python -m examples.demo            # play the session: what the caller sees, what the operator's log holds
    python -m examples.demo --serve    # keep the service running, and print curl lines for it

``service.py`` is the part to copy: the guarded app. ``session.py`` says what must happen in each case.
"""
