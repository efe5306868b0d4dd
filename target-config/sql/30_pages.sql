CREATE TABLE IF NOT EXISTS pages (
    sync_id                  TEXT,
    page                     INTEGER,
    requested_at             TIMESTAMPTZ,
    received_at              TIMESTAMPTZ,
    response_bytes           BIGINT,
    events                   INTEGER,
    emitted                  INTEGER,
    skipped                  INTEGER,
    rejected                 INTEGER,
    retries                  JSONB,
    rate_limit_wait_seconds  NUMERIC,
    rate_limit               INTEGER,
    rate_limit_remaining     INTEGER,
    rate_limit_reset_seconds INTEGER,
    cursor_expires_at        TIMESTAMPTZ,
    oldest_event_at          TIMESTAMPTZ,
    newest_event_at          TIMESTAMPTZ,
    events_seen              BIGINT,
    events_expected          BIGINT,
    total_events             BIGINT,
    incremental_to           TIMESTAMPTZ,
    PRIMARY KEY (sync_id, page)
);

COMMENT ON TABLE pages IS 'Log of the extraction, one row per page of the API.';
COMMENT ON COLUMN pages.sync_id IS 'Sync: one process of the tap.';
COMMENT ON COLUMN pages.page IS 'Number of the page within its sync, from 1.';
COMMENT ON COLUMN pages.requested_at IS 'When the successful request was sent.';
COMMENT ON COLUMN pages.received_at IS 'When its response was complete.';
COMMENT ON COLUMN pages.response_bytes IS 'Size of the response body in bytes.';
COMMENT ON COLUMN pages.events IS 'Events in the page.';
COMMENT ON COLUMN pages.emitted IS 'Events of the page that were emitted to the target.';
COMMENT ON COLUMN pages.skipped IS 'Events of the page that were skipped, because an earlier scan had loaded them.';
COMMENT ON COLUMN pages.rejected IS 'Events of the page that went to rejected_events.';
COMMENT ON COLUMN pages.retries IS 'Requests repeated since the previous page: an object of cause and count.';
COMMENT ON COLUMN pages.rate_limit_wait_seconds IS 'Seconds waited for the rate limit since the previous page.';
COMMENT ON COLUMN pages.rate_limit IS 'Requests that the API allows per window.';
COMMENT ON COLUMN pages.rate_limit_remaining IS 'Requests left in the window after this one.';
COMMENT ON COLUMN pages.rate_limit_reset_seconds IS 'Seconds until the rate limit frees a request.';
COMMENT ON COLUMN pages.cursor_expires_at IS 'When the cursor of the next page expires.';
COMMENT ON COLUMN pages.oldest_event_at IS 'Timestamp of the oldest event in the page.';
COMMENT ON COLUMN pages.newest_event_at IS 'Timestamp of the newest event in the page.';
COMMENT ON COLUMN pages.events_seen IS 'Events that the scan has seen, this page included.';
COMMENT ON COLUMN pages.events_expected IS 'Events that the scan has to see in total.';
COMMENT ON COLUMN pages.total_events IS 'Number of events that the API reports.';
COMMENT ON COLUMN pages.incremental_to IS 'Where an incremental scan ends; NULL for a scan to the oldest event.';
