-- Row keys are packed, see key.rs: a sample's is dataset << 32 | sequence, an embedding's is
-- backbone << 48 | the sample's. Rows of one dataset thus lie together and new ones come last.

CREATE TABLE backbones (
    number INTEGER PRIMARY KEY CHECK (number BETWEEN 1 AND 32767),
    sha256 BLOB NOT NULL UNIQUE,
    width INTEGER NOT NULL              -- values in an embedding
) STRICT;

CREATE TABLE datasets (
    number INTEGER PRIMARY KEY CHECK (number BETWEEN 1 AND 65535),
    name TEXT NOT NULL UNIQUE,
    keep TEXT NOT NULL,                 -- images, thumbnails, embeddings
    held_out_share REAL NOT NULL,       -- 0 to 1
    max_samples INTEGER,                -- NULL: no limit
    max_bytes INTEGER,
    when_full TEXT NOT NULL,            -- refuse, drop_oldest
    capture TEXT CHECK (json_valid(capture)), -- which predictions are kept for review
    created_at INTEGER NOT NULL         -- microseconds since 1970, like all times here
) STRICT;

CREATE TABLE samples (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL,                   -- the client's, unique within the dataset
    id_hash INTEGER NOT NULL,
    indexed INTEGER NOT NULL,           -- 1 once the index below has it, see ledger.rs
    labels TEXT NOT NULL,               -- JSON array of strings
    held_out INTEGER NOT NULL,
    weight REAL NOT NULL,
    source TEXT NOT NULL,
    note TEXT NOT NULL,
    taken_at INTEGER,
    added_at INTEGER NOT NULL,
    pinned INTEGER NOT NULL,
    origin INTEGER NOT NULL,            -- 0 a client sent it, 1 captured, 2 imported
    prediction TEXT CHECK (json_valid(prediction)), -- what was thought of it when captured
    width INTEGER NOT NULL,             -- pixels of the upright photograph, 0 where there is none
    height INTEGER NOT NULL,
    content BLOB NOT NULL,              -- SHA-256 of the image as sent, or of the embedding
    bytes INTEGER NOT NULL,             -- what counts against the quota
    checksum INTEGER NOT NULL           -- of the columns above, see sample.rs
) STRICT;

-- Hashes are random, so entering each one at once would dirty a page for every sample. They are
-- entered a few thousand at a time; until then the ledger finds them in memory.
CREATE INDEX samples_by_id ON samples (id_hash) WHERE indexed = 1;

CREATE TABLE images (
    key INTEGER PRIMARY KEY,            -- the sample's
    thumbnail INTEGER NOT NULL,
    length INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    file TEXT,                          -- name in the images folder
    bytes BLOB,                         -- exactly one of file and bytes
    CHECK ((bytes IS NULL) <> (file IS NULL))
) STRICT;

-- Answers which files are in use without reading the images.
CREATE INDEX images_in_files ON images (file) WHERE file IS NOT NULL;

CREATE TABLE embeddings (
    key INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    halves BLOB NOT NULL                -- IEEE 754 binary16, little-endian
) STRICT;

CREATE TABLE heads (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    next_version INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE head_versions (
    head INTEGER NOT NULL REFERENCES heads (number) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    metadata TEXT NOT NULL CHECK (json_valid(metadata)),
    sha256 BLOB NOT NULL,
    bytes BLOB NOT NULL,
    UNIQUE (head, version)
) STRICT;

-- The last row of a head names its active version, the one before it what a rollback returns to.
CREATE TABLE activations (
    number INTEGER PRIMARY KEY,
    head INTEGER NOT NULL REFERENCES heads (number) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    activated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,                -- queued, running, succeeded, failed, cancelled, interrupted
    request TEXT NOT NULL CHECK (json_valid(request)),
    progress TEXT CHECK (json_valid(progress)),
    report TEXT CHECK (json_valid(report)),
    error TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER
) STRICT;
