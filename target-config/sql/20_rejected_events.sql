CREATE TABLE IF NOT EXISTS rejected_events (
    rejection_id TEXT PRIMARY KEY,
    event_id     TEXT,
    errors       JSONB,
    raw_event    TEXT,
    sync_id      TEXT,
    page         INTEGER,
    rejected_at  TIMESTAMPTZ
);

COMMENT ON TABLE rejected_events IS 'Events with invalid fields. An event that has an id is in events too, its invalid fields NULL.';
COMMENT ON COLUMN rejected_events.rejection_id IS 'SHA-256 of the event, independent of the spelling of its timestamp.';
COMMENT ON COLUMN rejected_events.event_id IS 'Event id, if the event has one.';
COMMENT ON COLUMN rejected_events.errors IS 'Validation errors: an array of messages.';
COMMENT ON COLUMN rejected_events.raw_event IS 'JSON text of the event as the API sent it.';
COMMENT ON COLUMN rejected_events.sync_id IS 'Sync that received the event: pages.sync_id.';
COMMENT ON COLUMN rejected_events.page IS 'Page of that sync: pages.page.';
COMMENT ON COLUMN rejected_events.rejected_at IS 'When the event was rejected.';
