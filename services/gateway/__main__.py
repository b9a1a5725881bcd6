"""`python -m services.gateway`: the API on one address, until SIGTERM."""

from __future__ import annotations

import logging
import os
import sys

from libs.common import loop
from libs.common.config import BadConfig, load
from services.gateway.config import GatewayConfig
from services.gateway.serve import cannot, run


def main() -> None:
    """Exits 2 on a wrong setting, 1 when it cannot begin."""
    try:
        config = load(GatewayConfig, os.environ)
        config.address(), config.pool_folders()
    except BadConfig as wrong:
        print(f"services.gateway: {wrong}", file=sys.stderr)
        sys.exit(2)
    logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        loop.run(run(config))
    except cannot() as error:
        sys.exit(f"services.gateway: {error}")


main()
