"""What looks as if the text went on in another's name: control tokens, tags, headings, turns of a talk."""

import re
from collections.abc import Iterator

from mlguard.inputs.control_tokens import CHAT_CONTROL_TOKENS, ControlTokens

_TOKENS = ControlTokens(CHAT_CONTROL_TOKENS - {"<s>", "</s>"}, where="PromptHeuristic")  # which are HTML, too
# None of these repeats anything without bound, but for one class of characters that ends the line.
_TAG = re.compile(r"</?((?:system|instructions?|prompt|admin|assistant|user|documents?|context)[a-z_]{0,16})>")
_IMAGE = re.compile(r"!\[[^\]\n]{0,60}\]\(https?://[^)\s]{0,200}\?")
_LABEL = re.compile(r"[(\[{<#*\"-] ?(?:assistants?|llm|ai|chatbot|gpt|model)[:,]")
_ORNAMENT = "#*=-<>[(/\"'{ \t"

_ANSWERING = frozenset({"assistant", "ai", "a", "answer", "bot", "model", "chatbot", "gpt"})
_AUTHORS = frozenset({"system", "assistant", "developer", "admin", "administrator", "operator"})
_HEADINGS = frozenset({"instruction", "instructions"})  # which honest people write over a list
_LONGEST_HEADING = 60  # characters
_MANY_ANSWERS = 6  # in a talk that somebody has written alone


def structure_in(text: str, folded: str) -> Iterator[tuple[str, float]]:
    """What there is of it in a text, by name, with how much it says."""
    if _TOKENS.are_in(text):
        yield "control token", 0.8
    tags = set(_TAG.findall(folded))
    if tags:
        yield "forged tag", 0.35 if len(tags) == 1 else 0.5
    if _IMAGE.search(folded):
        yield "send away", 0.3  # a badge in a README looks the same
    if _LABEL.search(folded):
        yield "label of a model", 0.3
    yield from _headings_in(folded)


def _headings_in(folded: str) -> Iterator[tuple[str, float]]:
    answers = 0
    for line in folded.splitlines():
        start = line.lstrip(_ORNAMENT)
        is_ornate = start != line
        word = start[:16].partition(":")[0].split(" ")[0].rstrip("]>*#=-")
        has_colon = start[len(word) : len(word) + 4].lstrip("]>*# ")[:1] == ":"
        answers += has_colon and word in _ANSWERING
        if not has_colon and not (is_ornate and len(line) < _LONGEST_HEADING):
            continue
        if word in _AUTHORS:
            yield "forged heading", 0.5 if is_ornate else 0.35
        elif word in _HEADINGS:
            yield "forged heading", 0.35
    if answers >= _MANY_ANSWERS:
        yield "many turns", 0.5
