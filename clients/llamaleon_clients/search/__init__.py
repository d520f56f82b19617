"""Search for hyperparameters: every trial is a job that is not deployed; the best one serves in the end."""
