"""What the API shows, folded from the log, one file for each kind of object. Pure: no clock, no I/O, nothing is judged here."""
