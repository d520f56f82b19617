"""Ollama's native API: the shapes of its requests and answers. Pure."""
