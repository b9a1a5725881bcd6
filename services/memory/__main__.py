"""`python -m services.memory`: this service alone in a process."""

from services.host.app import main

main(["memory"])
