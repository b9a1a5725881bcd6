"""`python -m services.io`: this service alone in a process."""

from services.host.app import main

main(["io"])
