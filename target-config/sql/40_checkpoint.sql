-- The target writes only the Singer STATE; the trigger derives the other columns from it. Generated
-- columns cannot: the conversion of text to timestamptz is not immutable.
CREATE TABLE IF NOT EXISTS checkpoint (
    id                 INTEGER PRIMARY KEY DEFAULT 1,
    next_cursor        TEXT,
    total_events       INTEGER,
    updated_at         TIMESTAMPTZ DEFAULT now(),
    state              JSONB,
    cursor_expires_at  TIMESTAMPTZ,
    scan_in_progress   BOOLEAN,
    scan_newest_at     TIMESTAMPTZ,
    scan_oldest_at     TIMESTAMPTZ,
    high_watermark     TIMESTAMPTZ,
    events_seen        BIGINT,
    events_emitted     BIGINT,
    events_expected    BIGINT,
    loaded_range_count INTEGER
);

COMMENT ON TABLE checkpoint IS 'Progress of the load. One row, committed after all rows that it covers.';
COMMENT ON COLUMN checkpoint.id IS 'Always 1.';
COMMENT ON COLUMN checkpoint.next_cursor IS 'Cursor of the next page; NULL if no scan is in progress.';
COMMENT ON COLUMN checkpoint.total_events IS 'Number of events that the API reports.';
COMMENT ON COLUMN checkpoint.updated_at IS 'When the row was last written.';
COMMENT ON COLUMN checkpoint.state IS 'Singer STATE, as saved by Meltano. All columns but id and updated_at are derived from it.';
COMMENT ON COLUMN checkpoint.cursor_expires_at IS 'When next_cursor expires.';
COMMENT ON COLUMN checkpoint.scan_in_progress IS 'Whether a scan has started and not finished.';
COMMENT ON COLUMN checkpoint.scan_newest_at IS 'Newest event of the scan in progress.';
COMMENT ON COLUMN checkpoint.scan_oldest_at IS 'Oldest event that the scan in progress has reached.';
COMMENT ON COLUMN checkpoint.high_watermark IS 'All events up to this timestamp are loaded: newest event of the last finished scan.';
COMMENT ON COLUMN checkpoint.events_seen IS 'Events seen by the current or last scan, skipped ones included.';
COMMENT ON COLUMN checkpoint.events_emitted IS 'Events of those that were emitted to the target.';
COMMENT ON COLUMN checkpoint.events_expected IS 'Events that the scan has to see in total.';
COMMENT ON COLUMN checkpoint.loaded_range_count IS 'Number of ranges loaded by earlier interrupted scans.';

-- An invalid value becomes NULL: no STATE may stop a load.
CREATE OR REPLACE FUNCTION try_timestamptz(value TEXT) RETURNS TIMESTAMPTZ
LANGUAGE plpgsql STABLE SET timezone TO 'UTC' AS $$
BEGIN
    RETURN value::timestamptz;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION try_bigint(value TEXT) RETURNS BIGINT LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN value::bigint;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- search_path is fixed to the schema of the tables, which may be missing in the session's search_path.
CREATE OR REPLACE FUNCTION checkpoint_from_state() RETURNS TRIGGER
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    bookmark CONSTANT JSONB := NEW.state #> '{bookmarks,events}';
    total CONSTANT BIGINT := try_bigint(bookmark ->> 'total_events');
BEGIN
    NEW.next_cursor        := bookmark ->> 'cursor';
    NEW.total_events       := CASE WHEN total BETWEEN 0 AND 2147483647 THEN total END;
    NEW.cursor_expires_at  := try_timestamptz(bookmark ->> 'cursor_expires_at');
    NEW.scan_in_progress   := coalesce(bookmark ->> 'cursor', bookmark ->> 'scan_newest_at') IS NOT NULL;
    NEW.scan_newest_at     := try_timestamptz(bookmark ->> 'scan_newest_at');
    NEW.scan_oldest_at     := try_timestamptz(bookmark ->> 'scan_oldest_at');
    NEW.high_watermark     := try_timestamptz(bookmark ->> 'high_watermark');
    NEW.events_seen        := try_bigint(bookmark ->> 'events_seen');
    NEW.events_emitted     := try_bigint(bookmark ->> 'events_emitted');
    NEW.events_expected    := try_bigint(bookmark ->> 'events_expected');
    NEW.loaded_range_count := CASE WHEN jsonb_typeof(bookmark -> 'loaded_ranges') = 'array'
                                   THEN jsonb_array_length(bookmark -> 'loaded_ranges') ELSE 0 END;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER checkpoint_from_state BEFORE INSERT OR UPDATE OF state ON checkpoint
FOR EACH ROW WHEN (NEW.state IS NOT NULL) EXECUTE FUNCTION checkpoint_from_state();
