"""Policy engines behind one port."""
