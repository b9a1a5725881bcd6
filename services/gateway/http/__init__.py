"""The HTTP handlers, one file per kind of object. They check, ask and answer; what they know comes from gateway.py."""
