"""The process that runs services: `python -m services.host compute memory io ha relay` runs several in one process,
`python -m services.compute` one alone. Same code, same result; only the number of processes differs."""
