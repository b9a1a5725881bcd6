"""Logs as they were written: what reads them to explain, check or run again, and never writes to one."""
