"""Checkpoint folders and the GOOD/BAD pair, checked in full before any weight is used."""
