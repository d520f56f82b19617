"""The training sidecar: token ids in, a PEFT LoRA directory out."""
