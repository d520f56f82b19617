"""llama-server's own routes, for its clients; and vLLM's words for two of them.

Source: llama.cpp, tools/server/README.md and server-context.cpp.
"""

from llamaleon_server.web.llama_server import about, completion, infill, tokens

routes = [*tokens.routes, *completion.routes, *infill.routes, *about.routes]
