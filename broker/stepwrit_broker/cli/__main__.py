"""`python -m stepwrit_broker.cli` is `stepwrit`."""

from stepwrit_broker.cli import main

main()
