"""How deep JSON is nested, before anything recurses into it."""

from __future__ import annotations

import re

MOST_LEVELS = 128  # a schema of a schema of tools has a dozen

# Texts whole, because brackets in them open nothing; one that is not closed runs to the end.
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def too_deep(body: bytes) -> bool:
    """
    >>> too_deep(b"[" * 500 + b"]" * 500), too_deep(b'["' + b"[" * 500 + b'"]'), too_deep(b"[[],[]]")
    (True, False, False)
    """
    if body.count(b"[") + body.count(b"{") <= MOST_LEVELS:  # nearly every request
        return False
    level = 0
    for mark in _MARKS.finditer(body):
        first = body[mark.start()]
        if first in b"[{":
            level += 1
            if level > MOST_LEVELS:
                return True
        elif first in b"]}":
            level -= 1
    return False
