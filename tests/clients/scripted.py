"""A server whose engine is a script: it calls the tool that it is offered, then answers with the result.

    python -m tests.clients.scripted PORT HOME

The small models here cannot decide to call a tool. Whoever drives a whole agent loop talks to this one: the
routes, templates, dialects and streams are the real ones, only the model's text is given.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from tests.clients.servers import ANSWER, CITY
from tests.unit.server.registry.small import write_base

from llamaleon_server.app import create_app
from llamaleon_server.engine.protocol import Generate
from llamaleon_server.settings import Settings
from llamaleon_server.testing import FakeEngines

HERMES = """\
{%- if tools %}<|im_start|>system
# Tools
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
For each call return {"name": ..., "arguments": ...} within <tool_call></tool_call>.<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

CALL = f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{CITY}"}}}}\n</tool_call>'


def answer(message: Generate) -> str:
    prompt = str(message.prompt)
    if "<tool_response>" in prompt:
        return ANSWER
    return CALL if "<tools>" in prompt else "Hola."


def main(port: int, home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    base = write_base(home / "scripted.gguf", template=HERMES)
    engines = FakeEngines(answer, context_tokens=65536)
    app = create_app(Settings(home=home / "home", models=(str(base),)), open_channel=engines.open)
    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
