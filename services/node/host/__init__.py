"""What this machine is and can do, read from its own files. Readers take the root of the tree they read (`/` where nothing
else is said), so that recorded trees of other machines serve as well; parsing is pure."""
