"""The truth about names: bases, adapters, versions, files, jobs and events, in SQLite and blobs beside it."""
