-- The events. No index but the key: each further one costs every insert of a long load.
CREATE TABLE IF NOT EXISTS events (
    id          TEXT PRIMARY KEY,
    session_id  TEXT,
    user_id     TEXT,
    type        TEXT,
    name        TEXT,
    properties  JSONB,
    timestamp   TIMESTAMPTZ,
    session     JSONB,
    ingested_at TIMESTAMPTZ DEFAULT now()
);

DO $$
BEGIN
    PERFORM pg_temp.require_column('events', 'id', 'text');
    PERFORM pg_temp.require_column('events', 'session_id', 'text');
    PERFORM pg_temp.require_column('events', 'user_id', 'text');
    PERFORM pg_temp.require_column('events', 'type', 'text');
    PERFORM pg_temp.require_column('events', 'name', 'text');
    PERFORM pg_temp.require_column('events', 'properties', 'jsonb');
    PERFORM pg_temp.require_column('events', 'timestamp', 'timestamp with time zone');
    PERFORM pg_temp.require_column('events', 'session', 'jsonb');
    -- Added in two steps on a table that had no such column: rows loaded before have no known time.
    PERFORM pg_temp.require_column('events', 'ingested_at', 'timestamp with time zone', 'now()');
    PERFORM pg_temp.require_key('events', 'id');
    PERFORM pg_temp.require_quiet_updates('events');

    PERFORM pg_temp.describe('events', NULL, 'Events of DataSync, one row an event.');
    PERFORM pg_temp.describe('events', 'id', 'Id of the event, as the API gives it.');
    PERFORM pg_temp.describe('events', 'session_id', 'Id of the session (sessionId).');
    PERFORM pg_temp.describe('events', 'user_id', 'Id of the user (userId).');
    PERFORM pg_temp.describe('events', 'type', 'Kind of the event, such as page_view or click.');
    PERFORM pg_temp.describe('events', 'name', 'Name of the event.');
    PERFORM pg_temp.describe('events', 'properties', 'Free properties of the event.');
    PERFORM pg_temp.describe('events', 'timestamp',
        'When the event happened. NULL where the API''s value cannot be read: see rejected_events.');
    PERFORM pg_temp.describe('events', 'session', 'The session as the event carries it: device, browser.');
    PERFORM pg_temp.describe('events', 'ingested_at', 'When this row was first written; a replay leaves it.');
END
$$;
