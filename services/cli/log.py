"""`asvctl log`: the log itself, read by a role that cannot write (but `archive`, which moves what is old)."""

from __future__ import annotations

import typer

from services.cli import log_archive, log_checkpoint, log_read, log_slice, log_verify

app = typer.Typer(help="The log: whether it is whole, where what is old of it lies; parts of it as files.", no_args_is_help=True)
app.command("verify")(log_verify.verify)
app.command("checkpoint")(log_checkpoint.checkpoint)
app.command("export")(log_slice.export)
app.command("import")(log_slice.take_in)
app.command("read", context_settings={"ignore_unknown_options": True})(log_read.read)
app.add_typer(log_archive.app, name="archive")
