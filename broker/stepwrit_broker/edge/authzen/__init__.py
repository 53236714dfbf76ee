"""The AuthZEN Authorization API 1.0: gateways ask, the broker advises."""
