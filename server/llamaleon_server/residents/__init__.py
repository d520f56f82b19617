"""Which base models are resident: starts, watches, restarts and unloads engine processes."""
