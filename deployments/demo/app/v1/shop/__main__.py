"""Start the service: `python -m shop`."""

import logging
import os
import signal
import sys

import uvicorn

from shop.log import configure_logging
from shop.settings import Settings
from shop.web import create_app


def main() -> None:
    configure_logging()
    settings = Settings.from_environment(os.environ)
    # uvicorn finishes the requests in flight, then raises the signal again: the handler from before decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.getLogger("shop").info("starting %s on port %s", settings.version, settings.port)
    uvicorn.run(
        create_app(settings),
        host="127.0.0.1",
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than any client keeps an idle connection: the client closes first
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
