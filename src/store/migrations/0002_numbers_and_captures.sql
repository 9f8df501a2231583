-- Numbers that are given once and never again: what remembers a deleted dataset by its number, or a
-- sample by its key, must not find another one there.
CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL              -- the number given last
) STRICT;

INSERT INTO counters (name, value) SELECT 'datasets', coalesce(max(number), 0) FROM datasets;

-- The budget of captured pictures is asked for with each of them.
CREATE INDEX samples_captured_at ON samples (added_at) WHERE origin = 1;
CREATE INDEX samples_captured_waiting ON samples (key) WHERE origin = 1 AND labels = '[]';
