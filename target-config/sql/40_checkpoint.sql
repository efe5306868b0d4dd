-- How far the load is: one row, written by the loader after the rows that it covers.
--
-- The loader stores the Singer STATE and knows nothing of what is in it. The trigger below derives
-- the other columns from it. It is a trigger and not a set of generated columns because reading a
-- timestamptz from text is not immutable.
CREATE TABLE IF NOT EXISTS checkpoint (
    id                INTEGER PRIMARY KEY DEFAULT 1,
    next_cursor       TEXT,
    total_events      INTEGER,
    updated_at        TIMESTAMPTZ DEFAULT now(),
    state             JSONB,
    cursor_expires_at TIMESTAMPTZ,
    walk_open         BOOLEAN,
    walk_newest       TIMESTAMPTZ,
    walk_oldest       TIMESTAMPTZ,
    complete_to       TIMESTAMPTZ,
    events_seen       BIGINT,
    events_emitted    BIGINT,
    loaded_spans      INTEGER
);

-- A value that cannot be read becomes NULL: no state may ever stop a load here.
CREATE OR REPLACE FUNCTION checkpoint_time(value TEXT) RETURNS TIMESTAMPTZ
LANGUAGE plpgsql STABLE SET timezone TO 'UTC' AS $$
BEGIN
    RETURN value::timestamptz;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION checkpoint_count(value TEXT) RETURNS BIGINT LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN value::bigint;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- search_path is pinned to this schema: the loader's own session need not have it in its path.
CREATE OR REPLACE FUNCTION checkpoint_from_state() RETURNS TRIGGER
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    bookmark CONSTANT JSONB := NEW.state #> '{bookmarks,events}';
    total CONSTANT BIGINT := checkpoint_count(bookmark ->> 'total_events');
BEGIN
    NEW.next_cursor       := bookmark ->> 'cursor';
    NEW.total_events      := CASE WHEN total BETWEEN 0 AND 2147483647 THEN total END;
    NEW.cursor_expires_at := checkpoint_time(bookmark ->> 'cursor_expires_at');
    NEW.walk_open         := coalesce(bookmark ->> 'cursor', bookmark ->> 'walk') IS NOT NULL;
    NEW.walk_newest       := checkpoint_time(bookmark #>> '{walk,newest}');
    NEW.walk_oldest       := checkpoint_time(bookmark #>> '{walk,oldest}');
    NEW.complete_to       := checkpoint_time(bookmark ->> 'complete_to');
    NEW.events_seen       := checkpoint_count(bookmark ->> 'events_seen');
    NEW.events_emitted    := checkpoint_count(bookmark ->> 'events_emitted');
    NEW.loaded_spans      := CASE WHEN jsonb_typeof(bookmark -> 'loaded') = 'array'
                                  THEN jsonb_array_length(bookmark -> 'loaded') ELSE 0 END;
    RETURN NEW;
END
$$;

DO $$
DECLARE
    relation CONSTANT regclass := to_regclass(format('%I.%I', current_schema(), 'checkpoint'));
BEGIN
    PERFORM pg_temp.require_column('checkpoint', 'id', 'integer', '1');
    PERFORM pg_temp.require_column('checkpoint', 'next_cursor', 'text');
    PERFORM pg_temp.require_column('checkpoint', 'total_events', 'integer');
    PERFORM pg_temp.require_column('checkpoint', 'updated_at', 'timestamp with time zone', 'now()');
    PERFORM pg_temp.require_column('checkpoint', 'state', 'jsonb');
    PERFORM pg_temp.require_column('checkpoint', 'cursor_expires_at', 'timestamp with time zone');
    PERFORM pg_temp.require_column('checkpoint', 'walk_open', 'boolean');
    PERFORM pg_temp.require_column('checkpoint', 'walk_newest', 'timestamp with time zone');
    PERFORM pg_temp.require_column('checkpoint', 'walk_oldest', 'timestamp with time zone');
    PERFORM pg_temp.require_column('checkpoint', 'complete_to', 'timestamp with time zone');
    PERFORM pg_temp.require_column('checkpoint', 'events_seen', 'bigint');
    PERFORM pg_temp.require_column('checkpoint', 'events_emitted', 'bigint');
    PERFORM pg_temp.require_column('checkpoint', 'loaded_spans', 'integer');
    PERFORM pg_temp.require_key('checkpoint', 'id');

    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = 'checkpoint_from_state') THEN
        EXECUTE format('CREATE TRIGGER checkpoint_from_state BEFORE INSERT OR UPDATE OF state ON %s '
                       'FOR EACH ROW WHEN (NEW.state IS NOT NULL) '
                       'EXECUTE FUNCTION checkpoint_from_state()', relation);
    END IF;

    PERFORM pg_temp.describe('checkpoint', NULL,
        'How far the load is. One row; every row that it covers is committed before it.');
    PERFORM pg_temp.describe('checkpoint', 'next_cursor',
        'Where the next page of the open walk starts; NULL when no walk is open.');
    PERFORM pg_temp.describe('checkpoint', 'total_events', 'Events that the API says it holds.');
    PERFORM pg_temp.describe('checkpoint', 'updated_at', 'When this row was last written.');
    PERFORM pg_temp.describe('checkpoint', 'state',
        'The Singer STATE, as Meltano saves it. All columns but id and updated_at are derived from it.');
    PERFORM pg_temp.describe('checkpoint', 'cursor_expires_at', 'Until when next_cursor lives.');
    PERFORM pg_temp.describe('checkpoint', 'walk_open', 'Whether a walk has begun that has not ended.');
    PERFORM pg_temp.describe('checkpoint', 'walk_newest', 'Newest event of the open walk.');
    PERFORM pg_temp.describe('checkpoint', 'walk_oldest', 'Oldest event that the open walk has reached.');
    PERFORM pg_temp.describe('checkpoint', 'complete_to',
        'Everything up to this instant is loaded: newest event of the last finished walk.');
    PERFORM pg_temp.describe('checkpoint', 'events_seen',
        'Events that the walk has seen so far, or that the last one saw, skipped ones included.');
    PERFORM pg_temp.describe('checkpoint', 'events_emitted', 'Events of those that were handed to the loader.');
    PERFORM pg_temp.describe('checkpoint', 'loaded_spans', 'Spans of earlier walks that were cut off.');
END
$$;
