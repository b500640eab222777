"""Gives operators health, metrics and logging. Must never show a value, a statement or a secret's name."""
