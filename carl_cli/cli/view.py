"""`carl view`: a report in the browser, from the disk or over loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def view(
    page: Annotated[Path, typer.Argument(help="The HTML page of a report or of a batch.")],
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve it on 127.0.0.1 until Ctrl-C, for a tunnel.")
    ] = False,
    port: Annotated[int, typer.Option("--port", help="Port to serve on; 0 takes a free one.")] = 0,
) -> None:
    """Open a report in the browser, or serve it to this machine alone.

    On a remote machine: `carl view report.html --serve --port 8000`

    and on your own: `ssh -L 8000:127.0.0.1:8000 HOST`
    """
    from carl_cli.errors import InputError

    if page.suffix.lower() not in (".html", ".htm") or not page.is_file():
        raise InputError(f"{page} is not an HTML page", "make one with carl report")
    if serve:
        _serve(page, port)
    else:
        _open(page)


def _open(page: Path) -> None:
    import webbrowser

    from carl_cli.errors import UsageError

    if not webbrowser.open(page.resolve().as_uri()):
        raise UsageError(
            "no browser was found here", f"use carl view {page} --serve, or copy the file"
        )


def _serve(page: Path, port: int) -> None:
    from carl_cli.report.serve import page_server

    with page_server(page, port) as server:
        typer.echo(server.address_of_page)
        server.serve_forever()
