"""Tools, and what models answer in each dialect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llamaleon_server.chat.ask import Tool
from llamaleon_server.chat.dialects.dialect import Dialect
from llamaleon_server.chat.dialects.known import GENERIC, OURS
from llamaleon_server.chat.template import ChatTemplate

WEATHER = Tool(
    name="get_weather",
    description="The weather somewhere.",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "days": {"type": "integer", "description": "How many."},
            "unit": {"enum": ["C", "F"], "description": "Of the temperature."},
        },
        "required": ["city"],
    },
)
NOTE = Tool(
    name="note",
    description="Writes something down.",
    parameters={
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What."},
            "tags": {"type": "array", "items": {"type": "string"}, "description": "Words for it."},
            "place": {
                "type": "object",
                "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
                "required": ["x", "y"],
                "description": "Where.",
            },
            "urgent": {"type": "boolean", "description": "Whether it is."},
        },
        "required": ["text"],
    },
)
TOOLS = (WEATHER, NOTE)

LIMA = ("get_weather", {"city": "Lima", "days": 2})
NOTED = (
    "note",
    {"text": 'A "quoted" line\nand ñ €', "tags": ["a", "b c"], "place": {"x": 1, "y": -2.5}, "urgent": True},
)

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (*OURS, GENERIC)}

TEMPLATES = Path(__file__).parent / "templates"


def template(name: str) -> ChatTemplate:
    return ChatTemplate((TEMPLATES / f"{name}.jinja").read_text("utf-8"), "<s>", "</s>")


def written(dialect: Dialect, *calls: tuple[str, Any]) -> str:
    """Calls as a model writes them."""
    if dialect.name == "mistral-named":
        return "".join(
            f"[TOOL_CALLS]{name}[ARGS]{json.dumps(given, ensure_ascii=False)}" for name, given in calls
        )
    if dialect.name == "mistral-identified":
        return "".join(
            f"[TOOL_CALLS]{name}[CALL_ID]abcDEF123[ARGS]{json.dumps(given, ensure_ascii=False)}"
            for name, given in calls
        )
    return dialect.written(calls)
