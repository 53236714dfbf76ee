"""A witness: what it keeps, what it cosigns. It knows public keys of logs, and nothing else of them."""
