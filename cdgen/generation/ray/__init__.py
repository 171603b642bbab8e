"""Generation on a Ray cluster: one driver, and workers that make ranges."""
