"""The Python client: what OpenAI's package has no word for, in its idiom, synchronous and asynchronous.

    from llamaleon_clients.python import Llamaleon

    with Llamaleon() as client:
        job = client.training.create("tickets.jsonl", base="nano", name="tickets")
        for event in client.training.events(job.id):
            print(event.message)
        print(client.adapters.retrieve("nano+tickets").evaluation)

Chat, embeddings and files are OpenAI's API: use the `openai` package with `base_url=client.openai_url`.
"""

from llamaleon_clients.python.asynchronous import AsyncLlamaleon
from llamaleon_clients.python.records import Adapter, Event, Job, Model, Resident, Score
from llamaleon_clients.python.synchronous import Llamaleon

__all__ = ["Adapter", "AsyncLlamaleon", "Event", "Job", "Llamaleon", "Model", "Resident", "Score"]
