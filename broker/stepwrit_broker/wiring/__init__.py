"""The composition root: settings in, a running broker out. The only package that knows every adapter."""
