"""``mlguard model``: what can be done with a model file. One module an action, named ``_model_…``."""

import argparse
import importlib
import pkgutil

from mlguard import commands


def add_to(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this command to the parser."""
    model = subcommands.add_parser("model", help="sign, verify, inspect, encrypt and keep model files")
    actions = model.add_subparsers(metavar="ACTION", required=True)
    for module in sorted(module.name for module in pkgutil.iter_modules(commands.__path__)):
        if module.startswith("_model_"):
            importlib.import_module(f"{commands.__name__}.{module}").add_to(actions)
