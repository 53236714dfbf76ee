"""OAuth faces, one module per RFC."""
