"""Who is calling: X.509-SVIDs over mTLS, judged by our own code."""
