"""The cells of the KV cache, and the prefixes that stay in them or move to RAM."""
