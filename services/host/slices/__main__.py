"""`python -m services.host.slices export|import …`: see words.py."""

import sys

from services.host.slices.app import main

sys.exit(main(sys.argv[1:]))
