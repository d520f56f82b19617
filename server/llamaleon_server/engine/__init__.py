"""The engine process: one base model, continuous batching, adapters per request."""
