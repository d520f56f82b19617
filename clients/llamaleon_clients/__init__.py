"""The `llamaleon` command and the small Python client beneath it: HTTP only, nothing of ours imported."""
