"""Names, versions, files and blobs: SQLite is the truth."""
