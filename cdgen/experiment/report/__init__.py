"""The page of an experiment: what helped, by how much, and how sure that is."""
