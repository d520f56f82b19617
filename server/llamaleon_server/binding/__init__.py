"""The only importer of llama_cpp: models, contexts, batches, adapters, as plain Python objects.

llama.cpp's own words (`n_ctx`, `seq_id`) stay in here. Nothing in here decides policy.
"""
