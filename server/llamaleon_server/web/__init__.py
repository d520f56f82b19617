"""One file per protocol route group: HTTP in, HTTP out."""
