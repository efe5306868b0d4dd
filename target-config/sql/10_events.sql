-- No index besides the key: each further index slows every insert of a long load.
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

COMMENT ON TABLE events IS 'Events of DataSync, one row per event.';
COMMENT ON COLUMN events.id IS 'Event id, as sent by the API.';
COMMENT ON COLUMN events.session_id IS 'Session id (sessionId in the API).';
COMMENT ON COLUMN events.user_id IS 'User id (userId in the API).';
COMMENT ON COLUMN events.type IS 'Event type, such as page_view or click.';
COMMENT ON COLUMN events.name IS 'Event name.';
COMMENT ON COLUMN events.properties IS 'Free-form properties of the event.';
COMMENT ON COLUMN events.timestamp IS 'Time of the event. NULL if the API''s value is invalid: see rejected_events.';
COMMENT ON COLUMN events.session IS 'Session object of the event: device, browser.';
COMMENT ON COLUMN events.ingested_at IS 'When the row was first inserted; a later load of the same event keeps it.';
