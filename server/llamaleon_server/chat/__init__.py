"""Messages to prompt text and training segments; pure text."""
