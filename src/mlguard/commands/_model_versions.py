"""``mlguard model save``, ``list``, ``promote`` and ``rollback``: the versions in a ``ModelStore``.

Keys are PEM files, and the key that encrypts is read from a variable: never from the command line.
"""

import argparse

YES, NO = 0, 1


def add_to(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add these actions to ``mlguard model``."""
    save = _add(actions, "save", _save, "keep a model as the next version of a store")
    save.add_argument("model", metavar="FILE", help="the model file")
