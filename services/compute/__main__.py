"""`python -m services.compute`: this service alone in a process."""

from services.host.app import main

main(["compute"])
