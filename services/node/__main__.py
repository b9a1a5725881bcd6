"""`python -m services.node`: the agent of one node."""

from services.node.app import main

main()
