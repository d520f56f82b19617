"""One file per group of commands; each has `register(app)`. Importing them costs typer and nothing else."""
