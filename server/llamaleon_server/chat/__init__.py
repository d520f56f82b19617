"""From conversations to text, by the model's own template. Pure text."""
