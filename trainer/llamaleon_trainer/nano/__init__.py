"""The tiny model that ships: its generated text, its training and its GGUF file."""
