-- What the tap tells of its own work, one row a page.
CREATE TABLE IF NOT EXISTS pages (
    run_id            TEXT,
    page              INTEGER,
    requested_at      TIMESTAMPTZ,
    received_at       TIMESTAMPTZ,
    bytes             BIGINT,
    events            INTEGER,
    emitted           INTEGER,
    skipped           INTEGER,
    rejected          INTEGER,
    retries           JSONB,
    waited            NUMERIC,
    budget_limit      INTEGER,
    budget_remaining  INTEGER,
    budget_reset      INTEGER,
    cursor_expires_at TIMESTAMPTZ,
    oldest            TIMESTAMPTZ,
    newest            TIMESTAMPTZ,
    events_seen       BIGINT,
    total_events      BIGINT,
    PRIMARY KEY (run_id, page)
);

DO $$
BEGIN
    PERFORM pg_temp.require_column('pages', 'run_id', 'text');
    PERFORM pg_temp.require_column('pages', 'page', 'integer');
    PERFORM pg_temp.require_column('pages', 'requested_at', 'timestamp with time zone');
    PERFORM pg_temp.require_column('pages', 'received_at', 'timestamp with time zone');
    PERFORM pg_temp.require_column('pages', 'bytes', 'bigint');
    PERFORM pg_temp.require_column('pages', 'events', 'integer');
    PERFORM pg_temp.require_column('pages', 'emitted', 'integer');
    PERFORM pg_temp.require_column('pages', 'skipped', 'integer');
    PERFORM pg_temp.require_column('pages', 'rejected', 'integer');
    PERFORM pg_temp.require_column('pages', 'retries', 'jsonb');
    PERFORM pg_temp.require_column('pages', 'waited', 'numeric');
    PERFORM pg_temp.require_column('pages', 'budget_limit', 'integer');
    PERFORM pg_temp.require_column('pages', 'budget_remaining', 'integer');
    PERFORM pg_temp.require_column('pages', 'budget_reset', 'integer');
    PERFORM pg_temp.require_column('pages', 'cursor_expires_at', 'timestamp with time zone');
    PERFORM pg_temp.require_column('pages', 'oldest', 'timestamp with time zone');
    PERFORM pg_temp.require_column('pages', 'newest', 'timestamp with time zone');
    PERFORM pg_temp.require_column('pages', 'events_seen', 'bigint');
    PERFORM pg_temp.require_column('pages', 'total_events', 'bigint');
    PERFORM pg_temp.require_key('pages', 'run_id', 'page');
    PERFORM pg_temp.require_quiet_updates('pages');

    PERFORM pg_temp.describe('pages', NULL, 'What the tap tells of its own work, one row a page.');
    PERFORM pg_temp.describe('pages', 'run_id', 'One process of the tap.');
    PERFORM pg_temp.describe('pages', 'page', 'Number of the page in its run, from 1.');
    PERFORM pg_temp.describe('pages', 'requested_at', 'When the request that brought the page was sent.');
    PERFORM pg_temp.describe('pages', 'received_at', 'When its answer was complete.');
    PERFORM pg_temp.describe('pages', 'bytes', 'Size of the answer''s body in bytes.');
    PERFORM pg_temp.describe('pages', 'events', 'Events in the page.');
    PERFORM pg_temp.describe('pages', 'emitted', 'Events of it that were handed to the loader.');
    PERFORM pg_temp.describe('pages', 'skipped', 'Events of it that an earlier walk had loaded.');
    PERFORM pg_temp.describe('pages', 'rejected', 'Events of it that went to rejected_events.');
    PERFORM pg_temp.describe('pages', 'retries', 'Requests repeated since the page before: cause to count.');
    PERFORM pg_temp.describe('pages', 'waited', 'Seconds slept for the rate limit since the page before.');
    PERFORM pg_temp.describe('pages', 'budget_limit', 'Requests that the API allows in a window.');
    PERFORM pg_temp.describe('pages', 'budget_remaining', 'Requests left after this one.');
    PERFORM pg_temp.describe('pages', 'budget_reset', 'Seconds until a request comes back.');
    PERFORM pg_temp.describe('pages', 'cursor_expires_at', 'Until when the cursor of the next page lives.');
    PERFORM pg_temp.describe('pages', 'oldest', 'Time of the oldest event in the page.');
    PERFORM pg_temp.describe('pages', 'newest', 'Time of the newest event in the page.');
    PERFORM pg_temp.describe('pages', 'events_seen', 'Events seen by the walk up to and with this page.');
    PERFORM pg_temp.describe('pages', 'total_events', 'Events that the API says it holds.');
END
$$;
