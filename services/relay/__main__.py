"""`python -m services.relay`: the relay alone in a process."""

from services.host.app import main

main(["relay"])
