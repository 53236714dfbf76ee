"""How persons sign: one adapter for each method."""
