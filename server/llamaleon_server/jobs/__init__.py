"""Fine-tuning: the queue, the training sidecar under supervision, and the way to a served name."""
