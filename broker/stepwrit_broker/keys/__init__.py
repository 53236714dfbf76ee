"""Signing keys and their rotation."""
