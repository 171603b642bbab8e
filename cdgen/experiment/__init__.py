"""The whole experiment: one recipe, and every command that it takes, in order."""
