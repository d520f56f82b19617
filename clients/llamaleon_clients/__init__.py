"""The llamaleon command: an HTTP client like any other."""
