"""`python -m services.ha`: ha in a process of its own."""

from services.host.app import main

main(["ha"])
