"""The page of one corpus, or of two side by side."""
