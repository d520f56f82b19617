"""The frozen base model, loaded exactly as it is served."""
