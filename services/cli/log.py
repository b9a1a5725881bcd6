"""`asvctl log`: the log itself, read by a role that cannot write."""

from __future__ import annotations

import typer

from services.cli import log_checkpoint, log_read, log_slice, log_verify

app = typer.Typer(help="The log: whether it is whole; parts of it as files.", no_args_is_help=True)
app.command("verify")(log_verify.verify)
app.command("checkpoint")(log_checkpoint.checkpoint)
app.command("export")(log_slice.export)
app.command("import")(log_slice.take_in)
app.command("read", context_settings={"ignore_unknown_options": True})(log_read.read)
