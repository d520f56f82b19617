"""The Llamaleon server: OpenAI's API over llama.cpp engines, adapters by name."""
