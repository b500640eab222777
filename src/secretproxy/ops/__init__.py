"""What operators look at: health, metrics, logging. May never show a value, a statement or a name of a secret."""
