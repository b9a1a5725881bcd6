"""`python -m services.host NAME…`: any of compute, memory, io, ha, relay."""

import sys

from services.host.app import main

main(sys.argv[1:])
