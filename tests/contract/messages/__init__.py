"""One contract for every service: what it is sent, follows and emits, over the real bus, with a real log, and nothing beside it."""
