"""`python -m services.host.replay --log DSN --service NAME`: see words.py."""

import sys

from services.host.replay.app import main

sys.exit(main(sys.argv[1:]))
