"""`python -m services.cli`: asvctl."""

from services.cli.main import main

main()
