"""The fleet's store: many brokers, Redis for speed, PostgreSQL for truth."""
