"""Bundles of foreign trust domains, from the bundle endpoints that the operator names."""
