"""Which marks a model puts around its thinking, by its chat template."""

from __future__ import annotations

from llamaleon_server.chat.dialects.dialect import Tags

KNOWN = (
    Tags("[THINK]", "[/THINK]"),  # Magistral, Ministral
    Tags("<seed:think>", "</seed:think>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),  # Command
    Tags("<think>", "</think>"),  # DeepSeek, Qwen, and most others
)

OFF = ("none", "minimal")  # efforts that mean: do not think


def tags_of(template: str) -> Tags | None:
    return next((tags for tags in KNOWN if tags.end in template), None)
