"""Development identities and the demo; loopback only."""
