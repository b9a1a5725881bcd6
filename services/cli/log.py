"""`asvctl log`: the log itself, read by a role that cannot write."""

from __future__ import annotations

import typer

from services.cli import log_checkpoint, log_verify

app = typer.Typer(help="The log: whether it is whole.", no_args_is_help=True)
app.command("verify")(log_verify.verify)
app.command("checkpoint")(log_checkpoint.checkpoint)
