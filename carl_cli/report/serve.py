"""A web server for report pages, reachable from this machine only."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from carl_cli.errors import UsageError

LOOPBACK = "127.0.0.1"


class _Pages(SimpleHTTPRequestHandler):
    """Hands out the HTML pages in and below one folder: no listing, nothing else."""

    def send_head(self) -> Any:
        path = Path(self.translate_path(self.path))
        inside = path.resolve().is_relative_to(Path(self.directory).resolve())
        # A foreign host name means that a web page elsewhere points its own name here.
        local = self.headers.get("Host", "").split(":")[0] in (LOOPBACK, "localhost")
        if not (local and inside and path.suffix.lower() in (".html", ".htm") and path.is_file()):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not worth a line."""


class PageServer(ThreadingHTTPServer):
    """Serves until it is stopped; `address_of_page` is what to open."""

    address_of_page: str = ""


def page_server(page: Path, port: int = 0) -> PageServer:
    """A server, not yet running, for a page and those below its folder.

    Raises UsageError when the port can't be had.
    """
    handler = partial(_Pages, directory=str(page.resolve().parent))
    try:
        server = PageServer((LOOPBACK, port), handler)
    except (OSError, OverflowError) as error:
        raise UsageError(f"port {port} can't be used: {error}", "leave --port out") from error
    server.address_of_page = f"http://{LOOPBACK}:{server.server_port}/{quote(page.name)}"
    return server
