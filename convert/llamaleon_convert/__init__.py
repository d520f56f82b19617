"""PEFT LoRA directories to GGUF LoRA files, with a manifest and numeric care."""
