"""Batches: files of requests, run beside the interactive ones and finished after any interruption."""
