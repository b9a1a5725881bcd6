"""What a node's memory may be promised to, and the proof over the log: shared by memory (which decides), compute (which filters by
the same arithmetic) and asvctl (which checks). Pure."""
