"""The pure rules: no I/O, async, clock, randomness, logging or third party."""
