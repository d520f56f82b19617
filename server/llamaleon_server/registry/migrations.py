"""Numbered, append-only changes of the database. Never edit one that was released: add another."""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    # 1: bases, adapters and what watched files became
    """
    CREATE TABLE gguf_files (
        path        TEXT PRIMARY KEY,
        bytes       INTEGER NOT NULL,
        mtime_ns    INTEGER NOT NULL,
        facts       TEXT NOT NULL               -- JSON of records.BaseFacts: fingerprint and header
    );
    CREATE TABLE bases (
        name        TEXT PRIMARY KEY,
        path        TEXT NOT NULL,
        created     INTEGER NOT NULL            -- seconds since the epoch
    );
    CREATE TABLE adapters (
        id          INTEGER PRIMARY KEY AUTOINCREMENT,
        name        TEXT NOT NULL,
        version     INTEGER NOT NULL,           -- counts per name, over all bases: adapters/NAME/VERSION/
        base        TEXT NOT NULL,              -- kept when a base is removed: it may come back
        key         TEXT NOT NULL,              -- sha256 of adapter.gguf
        state       TEXT NOT NULL CHECK (state IN ('registered', 'deployed', 'retired', 'failed')),
        reason      TEXT,
        ft_name     TEXT,
        manifest    TEXT NOT NULL,
        created     INTEGER NOT NULL,
        UNIQUE (name, version)
    );
    CREATE UNIQUE INDEX adapters_ft_name ON adapters (ft_name) WHERE ft_name IS NOT NULL;
    CREATE INDEX adapters_base ON adapters (base, name);
    CREATE TABLE watched (
        path        TEXT PRIMARY KEY,
        stamp       TEXT NOT NULL,              -- sizes and times of the content that was taken
        name        TEXT NOT NULL,
        versions    TEXT NOT NULL,              -- JSON list: the adapter versions it became, oldest first
        reason      TEXT
    );
    """,
    # 2: files and fine-tuning jobs
    """
    CREATE TABLE files (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT NOT NULL UNIQUE,
        filename    TEXT NOT NULL,
        purpose     TEXT NOT NULL,
        bytes       INTEGER NOT NULL,
        sha256      TEXT NOT NULL,
        created     INTEGER NOT NULL,
        expires     INTEGER
    );
    CREATE TABLE jobs (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT NOT NULL UNIQUE,
        status      TEXT NOT NULL,
        record      TEXT NOT NULL               -- JSON of jobstore.JobRecord
    );
    CREATE INDEX jobs_status ON jobs (status);
    CREATE TABLE job_events (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT NOT NULL UNIQUE,
        job         TEXT NOT NULL REFERENCES jobs (id),
        created     INTEGER NOT NULL,
        level       TEXT NOT NULL,
        type        TEXT NOT NULL,
        message     TEXT NOT NULL,
        data        TEXT NOT NULL,
        once        TEXT,                       -- an event with this mark is recorded once per job
        UNIQUE (job, once)
    );
    CREATE INDEX job_events_job ON job_events (job, seq);
    CREATE TABLE job_checkpoints (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT NOT NULL UNIQUE,
        job         TEXT NOT NULL REFERENCES jobs (id),
        step        INTEGER NOT NULL,
        ft_name     TEXT NOT NULL,
        metrics     TEXT NOT NULL,
        created     INTEGER NOT NULL,
        UNIQUE (job, step)
    );
    """,
    # 3: adapters that stay in their engine's bank
    """
    CREATE TABLE pins (
        base        TEXT NOT NULL,
        name        TEXT NOT NULL,
        version     INTEGER NOT NULL,           -- 0: whichever is deployed
        PRIMARY KEY (base, name, version)
    );
    """,
    # 4: API keys
    """
    CREATE TABLE keys (
        id          TEXT PRIMARY KEY,           -- the part of a key that is no secret
        name        TEXT NOT NULL UNIQUE,
        scope       TEXT NOT NULL CHECK (scope IN ('use', 'train', 'admin')),
        hash        BLOB NOT NULL,              -- sha256 of the whole key, which is random enough for it
        created     INTEGER NOT NULL,
        used        INTEGER                     -- about when it was last accepted; NULL: never
    );
    """,
    # 5: made models
    """
    CREATE TABLE made_models (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        name        TEXT NOT NULL UNIQUE,
        base        TEXT NOT NULL,              -- kept when a base is removed: it may come back
        record      TEXT NOT NULL               -- JSON of records.MadeModel
    );
    CREATE INDEX made_models_base ON made_models (base);
    """,
    # 6: responses, conversations and batches
    """
    CREATE TABLE responses (
        id          TEXT PRIMARY KEY,
        previous    TEXT,                       -- kept when that one is deleted
        status      TEXT NOT NULL,
        created     INTEGER NOT NULL,
        record      TEXT NOT NULL,              -- JSON of responses_object.ResponseObject without its output
        events      TEXT                        -- JSON list of a background stream, to be read again
    );
    CREATE INDEX responses_previous ON responses (previous);
    CREATE INDEX responses_created ON responses (created);
    CREATE INDEX responses_running ON responses (status) WHERE status IN ('queued', 'in_progress');
    CREATE TABLE conversations (
        id          TEXT PRIMARY KEY,
        created     INTEGER NOT NULL,
        metadata    TEXT NOT NULL
    );
    CREATE TABLE items (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        owner       TEXT NOT NULL,              -- a response or a conversation
        id          TEXT NOT NULL,
        output      INTEGER NOT NULL,           -- 1: of a response's answer
        item        TEXT NOT NULL               -- JSON of responses_items.Item
    );
    CREATE INDEX items_owner ON items (owner, seq);
    CREATE INDEX items_id ON items (id, seq);
    CREATE TABLE batches (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT NOT NULL UNIQUE,
        status      TEXT NOT NULL,
        record      TEXT NOT NULL               -- JSON of registry.batches.BatchRecord
    );
    CREATE INDEX batches_status ON batches (status);
    """,
    # 7: projectors, and models found in the folders of other programs
    """
    ALTER TABLE bases ADD COLUMN projector TEXT;    -- path of the mmproj file of a vision model
    ALTER TABLE bases ADD COLUMN found_in TEXT;     -- in whose folder it was found; NULL: registered
    CREATE TABLE hidden_files (
        path        TEXT PRIMARY KEY                -- of bases that were removed: not to be found again
    );
    """,
    # 8: chat completions kept with `store: true`
    """
    CREATE TABLE stored_completions (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT NOT NULL UNIQUE,
        model       TEXT NOT NULL,              -- as asked for
        metadata    TEXT NOT NULL,              -- JSON object of texts, to filter by
        record      TEXT NOT NULL               -- JSON of wire.stored.Exchange
    );
    CREATE INDEX stored_completions_model ON stored_completions (model, seq);
    """,
    # 9: which version of an adapter its bare name means, and meant before
    """
    CREATE TABLE deployments (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        base        TEXT NOT NULL,
        name        TEXT NOT NULL,
        version     INTEGER NOT NULL,
        deployed    INTEGER NOT NULL,
        withdrawn   INTEGER                     -- when a rollback took it back; NULL: it stands
    );
    CREATE INDEX deployments_of ON deployments (base, name, seq);
    INSERT INTO deployments (base, name, version, deployed)
        SELECT base, name, version, created FROM adapters WHERE state = 'deployed' ORDER BY name, version;
    """,
    # 10: webhooks that were not delivered yet
    """
    CREATE TABLE webhooks (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT NOT NULL,              -- of the event: the same for every URL and attempt
        url         TEXT NOT NULL,
        body        TEXT NOT NULL,
        attempts    INTEGER NOT NULL DEFAULT 0,
        due         REAL NOT NULL,              -- seconds since the epoch
        UNIQUE (id, url)
    );
    CREATE INDEX webhooks_due ON webhooks (due);
    """,
)
