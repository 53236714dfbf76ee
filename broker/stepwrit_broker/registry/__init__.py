"""The operator's registry: who is what, and what may open what."""
