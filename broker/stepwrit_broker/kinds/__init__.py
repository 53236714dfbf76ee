"""Credential kinds, one module each."""
