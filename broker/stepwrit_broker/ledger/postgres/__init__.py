"""The log of a fleet, in PostgreSQL: written in the store's transactions, read by connections of its own."""
