"""The Stepwrit broker: attests workloads, decides steps, issues and redeems single-use credentials."""
