"""The agent of one node: brings the VMs to what the services want, and reports what it sees until it is heard.

It owns nothing and decides nothing: which VM runs where is said by orders, each with a generation and a version, and the agent
refuses older ones. It never writes another service's events, never starts what it was not told, and its end ends no VM.
"""
