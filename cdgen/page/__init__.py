"""Pages that open from disk: one HTML file with everything in it, and its Markdown."""
