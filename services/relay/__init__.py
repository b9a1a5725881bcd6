"""The relay: publishes the committed log to JetStream, in order; the only one that may. It owns no state but its position."""
