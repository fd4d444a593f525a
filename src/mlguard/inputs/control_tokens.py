"""What a chat template reads as structure, where it stands in somebody's text."""

import re
from collections.abc import Iterable

from mlguard.errors import ConfigurationError
from mlguard.inputs._bare_text import bare

#: Control tokens of widespread chat templates, beside those of the form ``<|name|>``, which are always known. What
#: people write too, such as ``### Instruction:`` or ``USER:``, is not among them: add it for a model that needs it.
CHAT_CONTROL_TOKENS: frozenset[str] = frozenset({
    "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>",  # Llama 2, Mistral
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]",  # Mistral
    "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>",  # Gemma
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",  # Qwen, Hermes
})  # fmt: skip

# ChatML, Llama 3, Phi, Command R, Granite, and with fullwidth bars DeepSeek. No program has names like that.
_NAMED = r"<\|[^\s|<>]{1,64}\|>"


class ControlTokens:
    """The control tokens of one model's chat template.

    Args:
        tokens: Each as it is written. An empty set: nothing is a control token, not even ``<|name|>``.
        where: Who takes them, for errors.

    Raises:
        ConfigurationError: A token that is no text of at least two characters without spaces around it.
    """

    def __init__(self, tokens: Iterable[str], *, where: str) -> None:
        if isinstance(tokens, str) or not isinstance(tokens, Iterable):
            raise ConfigurationError(f"{where} is a set of tokens, such as CHAT_CONTROL_TOKENS")
        forms: set[str] = set()
        for token in tokens:
            if not isinstance(token, str) or len(token) < 2 or token != token.strip():
                raise ConfigurationError(f"{where}: a token is a text of at least two characters, no space around it")
            forms |= {token, bare(token)}
        # Nothing in it repeats without bound, so it takes time in proportion to the text.
        alternatives = "|".join([*map(re.escape, sorted(forms, key=len, reverse=True)), _NAMED])
        self._pattern = re.compile(alternatives) if forms else None
        self._begin = re.compile(f"(?={alternatives})(.)", re.DOTALL)  # of each, also of one within another

    def are_in(self, text: str) -> bool:
        """Whether the text has one in it, as it stands or as a tokenizer that normalises reads it."""
        if self._pattern is None:
            return False
        return any(self._pattern.search(form) for form in {text, bare(text)})

    def break_up(self, text: str) -> str:
        """The text with a space in each of them: readable as before, and structure to no template."""
        if self._pattern is None:
            return text
        return self._begin.sub(r"\1 ", text)
