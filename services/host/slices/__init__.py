"""`asvctl log export` and `log import`: parts of logs as files, and files as logs (docs/export.md)."""
