"""Engine processes: started on first use, shared, watched, stopped when idle."""
