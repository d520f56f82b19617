"""From a row of logits to a token, its log-probability and its text."""
