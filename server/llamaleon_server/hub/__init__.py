"""Models from elsewhere: pulled from the Hugging Face hub or an Ollama registry, or found on this disk."""
