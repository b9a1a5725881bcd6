"""`asvctl ha`: high availability."""

from __future__ import annotations

import typer

from services.cli import fence

app = typer.Typer(help="High availability.", no_args_is_help=True)
app.add_typer(fence.app, name="fence")
