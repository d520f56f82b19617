"""Marks such as `<tool_call>` in a grammar: one control token in one vocabulary, text in another.

Who writes a grammar does not know the vocabulary, so it has a rule of its own for each mark, on one line:

    marker_calls: "[TOOL_CALLS]"
    until_answer[lazy]: /(?s:.*)/ "</think>"

which is llguidance's Lark as it stands, for marks that are text. Where the vocabulary has the mark as a token
that no text can stand for, the rule becomes that token; `until_`, anything up to and with the mark, is then
no longer lazy, because no text can contain the mark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

_MARK = re.compile(
    r'^(?P<name>marker_\w+|until_\w+)(?:\[lazy\])?:(?P<text> /\(\?s:\.\*\)/)? (?P<mark>"(?:[^"\\]|\\.)*")$',
    re.M,
)


def with_tokens(grammar: str, token_of: Callable[[str], int | None]) -> str:
    """`grammar` (Lark, or llguidance's JSON form) for a vocabulary: `token_of` finds its control tokens."""
    if not grammar.lstrip().startswith("{"):
        return _rewritten(grammar, token_of)
    form = json.loads(grammar)
    for part in form.get("grammars", []):
        if isinstance(part.get("lark_grammar"), str):
            part["lark_grammar"] = _rewritten(part["lark_grammar"], token_of)
    return json.dumps(form, ensure_ascii=False)


def _rewritten(lark: str, token_of: Callable[[str], int | None]) -> str:
    def one(found: re.Match[str]) -> str:
        token = token_of(json.loads(found["mark"]))
        return found[0] if token is None else f"{found['name']}:{found['text'] or ''} <[{token}]>"

    return _MARK.sub(one, lark)
