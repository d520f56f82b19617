"""Marks of a grammar become tokens where the vocabulary has them, and stay text elsewhere."""

from __future__ import annotations

import json

from llamaleon_server.engine.sampling.markers import with_tokens

LARK = """start: until_0 marker_1 rule_2 "<a>"
until_0[lazy]: /(?s:.*)/ "<a>"
marker_1[lazy]: "say \\"b\\""
marker_3: "<c>"
rule_2: "<a>"
"""
TOKENS = {"<a>": 7, 'say "b"': 8}.get


def test_marks_become_tokens() -> None:
    expected = """start: until_0 marker_1 rule_2 "<a>"
until_0: /(?s:.*)/ <[7]>
marker_1: <[8]>
marker_3: "<c>"
rule_2: "<a>"
"""
    assert with_tokens(LARK, TOKENS) == expected
    assert with_tokens(LARK, lambda text: None) == LARK


def test_in_every_part_of_the_json_form() -> None:
    form = {"grammars": [{"name": "x", "lark_grammar": LARK}, {"json_schema": {"const": 'marker_1: "<a>"'}}]}
    found = json.loads(with_tokens(json.dumps(form), TOKENS))
    assert found["grammars"] == [
        {"name": "x", "lark_grammar": with_tokens(LARK, TOKENS)},
        form["grammars"][1],
    ]
