"""What persons see: the approval page, and what belongs to it."""
