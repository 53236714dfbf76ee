"""What a SPIRE server must know for a deployment: derived, compared, printed. Talks to nobody."""
