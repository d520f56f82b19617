"""The adapters of one engine: cold on disk, warm in RAM, hot in the bank; and who may share a pass."""
