"""The conversation at the terminal: its messages, its commands, its words."""
