"""What services say to each other: the only thing they share besides libs. One module per service."""
