"""How models write calls of tools: one file for each way, found by the model's chat template."""
