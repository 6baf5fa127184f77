"""A web server for report pages, reachable from this machine only.

Other users of the machine can reach it too, though they may not read the files: an address holds
a token that only who started the server knows.
"""

from __future__ import annotations

import secrets
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from carl_cli.errors import UsageError
from carl_cli.report.page import asset

LOOPBACK = "127.0.0.1"


class _Pages(SimpleHTTPRequestHandler):
    """Hands out the HTML pages in and below one folder: no listing, nothing else.

    / asks for the token, and /?token=… and /token/ lead to the page that was named.
    """

    def __init__(self, *args: Any, token: str, page: str, **more: Any) -> None:
        self.token, self.page = token, page
        super().__init__(*args, **more)

    def send_head(self) -> Any:
        # A foreign host name means that a web page elsewhere points its own name here.
        local = self.headers.get("Host", "").split(":")[0] in (LOOPBACK, "localhost")
        path, _, query = self.path.partition("?")
        if local and self.path == "/":
            return self._entrance()
        _, token, page = [*path.split("/", 2), "", ""][:3]
        token = token or parse_qs(query).get("token", [""])[0].strip()
        known = secrets.compare_digest(token.encode(), self.token.encode())
        self.path = f"/{page}"
        if local and known and not page:
            return self._lead()
        if not (local and known and self._is_page()):
            hint = "Open the whole address that carl view printed: it tells who may look."
            self.send_error(HTTPStatus.NOT_FOUND, explain=hint)
            return None
        return super().send_head()

    def _entrance(self) -> BytesIO:
        form = asset("entrance.html").encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(form)))
        self.end_headers()
        return BytesIO(form)

    def _lead(self) -> None:
        self.send_response(HTTPStatus.FOUND)
        self.send_header("Location", f"/{self.token}/{quote(self.page)}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _is_page(self) -> bool:
        try:
            path = Path(self.translate_path(self.path))
            inside = path.resolve().is_relative_to(Path(self.directory).resolve())
            return inside and path.suffix.lower() in (".html", ".htm") and path.is_file()
        except (OSError, ValueError):  # names that no file can have
            return False

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not worth a line."""


class PageServer(ThreadingHTTPServer):
    """Serves until it is stopped; `address_of_page` is what to open."""

    address_of_page: str = ""


def page_server(page: Path, port: int = 0) -> PageServer:
    """A server, not yet running, for a page and those below its folder.

    Raises UsageError when the port can't be had.
    """
    token = secrets.token_urlsafe(24)
    handler = partial(_Pages, token=token, page=page.name, directory=str(page.resolve().parent))
    try:
        server = PageServer((LOOPBACK, port), handler)
    except (OSError, OverflowError) as error:
        raise UsageError(f"port {port} can't be used: {error}", "leave --port out") from error
    server.address_of_page = f"http://{LOOPBACK}:{server.server_port}/{token}/{quote(page.name)}"
    return server
