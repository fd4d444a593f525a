"""Which versions were promoted one after the other, and which of these promotions are in force."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mlguard.artifacts._numbered_folders import numbers
from mlguard.artifacts._signing_keys import PublicKey
from mlguard.artifacts.model_versions import RECORD, PromotionRecord, read_record
from mlguard.artifacts.signing import verify_model
from mlguard.errors import ModelSignatureError


def read_promotions(folder: Path, key: PublicKey | Sequence[PublicKey], name: str) -> Sequence[PromotionRecord]:
    """The promotions of a model, in their order.

    Args:
        folder: Where they are.
        key: Who may have signed them.
        name: Of the model.

    Raises:
        ModelSignatureError: One is not as it was signed, or missing before the last.
    """
    found = []
    for position, number in enumerate(numbers(folder), 1):
        place = folder / str(number)
        signed = verify_model(place, key, name=f"{name}@promotion-{number}")
        record = read_record(place, signed.files.get(RECORD), PromotionRecord)
        if (record.name, record.number, position) != (name, number, number):
            raise ModelSignatureError(f"promotion {position} of {name} is missing, or is another one's")
        found.append(record)
    return found


def in_force(promotions: Iterable[PromotionRecord]) -> list[PromotionRecord]:
    """The promotions that were not taken back, the present one last.

    Raises:
        ModelSignatureError: One goes back to another version than the one before, which :meth:`ModelStore.rollback`
            never signs.
    """
    stack: list[PromotionRecord] = []
    for record in promotions:
        if record.action == "rollback":
            stack = stack[:-1]
            if not stack or (stack[-1].version, stack[-1].digest) != (record.version, record.digest):
                raise ModelSignatureError(f"promotion {record.number} of {record.name} goes back to another version")
        elif not stack or stack[-1].digest != record.digest:
            stack.append(record)
    return stack
