"""Rehearsal: what a policy would answer, asked before it is in force."""
