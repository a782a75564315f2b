"""Text from a model: how the next token is drawn, and the loop that reads prompts and draws."""
