"""What compute is sent, follows and emits: the tables, and the test that plays them."""
