"""`python -m llamaleon_server.engine '{"model_path": ...}'`: an engine on standard input and output."""

from __future__ import annotations

import sys

import msgspec

from llamaleon_server.binding.cores import available_cores, settle
from llamaleon_server.engine.channel import claim_pipes
from llamaleon_server.engine.options import EngineOptions
from llamaleon_server.engine.protocol import Fatal


def main() -> int:
    channel = claim_pipes()  # before llama.cpp is loaded: it may print
    try:
        options = msgspec.json.decode(sys.argv[1] if len(sys.argv) == 2 else "", type=EngineOptions)
    except msgspec.MsgspecError as error:
        channel.send(Fatal(f"The engine takes its options as one JSON argument: {error}"))
        return 2
    options = msgspec.structs.replace(options, threads=options.threads or available_cores())
    settle(options.threads or 1)
    try:
        from llamaleon_server.engine.process import run
    except ModuleNotFoundError as error:
        channel.send(Fatal(f"{error}. Install what engines need: pip install 'llamaleon[engine]'."))
        return 1
    except (OSError, RuntimeError) as error:  # llama_cpp is there, its native library is not or does not fit
        channel.send(Fatal(f"llama.cpp's library cannot be loaded: {error}. Reinstall llama-cpp-python."))
        return 1
    return run(options, channel)


if __name__ == "__main__":
    sys.exit(main())
