"""Request and response shapes of the wire; pure."""
