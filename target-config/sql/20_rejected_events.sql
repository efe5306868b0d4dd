-- Events of which something did not fit, as they came.
CREATE TABLE IF NOT EXISTS rejected_events (
    rejection_id TEXT PRIMARY KEY,
    event_id     TEXT,
    reasons      JSONB,
    raw          TEXT,
    run_id       TEXT,
    page         INTEGER,
    rejected_at  TIMESTAMPTZ
);

DO $$
BEGIN
    PERFORM pg_temp.require_column('rejected_events', 'rejection_id', 'text');
    PERFORM pg_temp.require_column('rejected_events', 'event_id', 'text');
    PERFORM pg_temp.require_column('rejected_events', 'reasons', 'jsonb');
    PERFORM pg_temp.require_column('rejected_events', 'raw', 'text');
    PERFORM pg_temp.require_column('rejected_events', 'run_id', 'text');
    PERFORM pg_temp.require_column('rejected_events', 'page', 'integer');
    PERFORM pg_temp.require_column('rejected_events', 'rejected_at', 'timestamp with time zone');
    PERFORM pg_temp.require_key('rejected_events', 'rejection_id');
    PERFORM pg_temp.require_quiet_updates('rejected_events');

    PERFORM pg_temp.describe('rejected_events', NULL,
        'Events of which something did not fit. One with an id is in events too, the misfit NULL there.');
    PERFORM pg_temp.describe('rejected_events', 'rejection_id', 'SHA-256 of the event, however its time was spelt.');
    PERFORM pg_temp.describe('rejected_events', 'event_id', 'Id of the event, where it has one.');
    PERFORM pg_temp.describe('rejected_events', 'reasons', 'What did not fit: an array of sentences.');
    PERFORM pg_temp.describe('rejected_events', 'raw', 'The JSON text of the event as the API sent it.');
    PERFORM pg_temp.describe('rejected_events', 'run_id', 'Run that met it: pages.run_id.');
    PERFORM pg_temp.describe('rejected_events', 'page', 'Page of that run: pages.page.');
    PERFORM pg_temp.describe('rejected_events', 'rejected_at', 'When it was met.');
END
$$;
