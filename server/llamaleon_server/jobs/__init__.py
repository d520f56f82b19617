"""Fine-tuning jobs: queue, sidecar supervision, conversion, proof, evaluation, deployment."""
