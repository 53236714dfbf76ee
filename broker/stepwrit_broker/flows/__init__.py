"""The verbs, each one straight line over core and ports."""
