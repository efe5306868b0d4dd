-- Helpers of the files that follow. They live in pg_temp: gone with the session, nothing to clean up.
--
-- All files are idempotent and are applied in the order of their names, in one transaction, with
-- search_path set to the schema of the tables. They use nothing newer than PostgreSQL 14. On a
-- database that is already right they write nothing but functions, which are made anew each time,
-- and take no lock that a running load or a dashboard could feel: every ALTER, COMMENT and CREATE
-- TRIGGER is made only where it is missing.

-- Make sure that a column exists with exactly this type.
-- A missing column is added. A column that the stock target made before these files were applied is
-- converted where that cannot lose anything; every other difference stops with one sentence.
CREATE OR REPLACE FUNCTION pg_temp.require_column(
    in_table TEXT, in_column TEXT, in_type TEXT, in_default TEXT DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    relation CONSTANT regclass := to_regclass(format('%I.%I', current_schema(), in_table));
    present TEXT;
    present_default TEXT;
    conversion TEXT;
BEGIN
    SELECT format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid)
      INTO present, present_default
      FROM pg_attribute AS a
      LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = relation AND a.attname = in_column AND a.attnum > 0 AND NOT a.attisdropped;

    IF present IS NULL THEN
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', relation, in_column, in_type);
    ELSIF present <> in_type THEN
        conversion := CASE
            -- The stock target writes UTC into a column without zone.
            WHEN in_type = 'timestamp with time zone' AND present = 'timestamp without time zone'
                THEN format('%I AT TIME ZONE ''UTC''', in_column)
            WHEN in_type = 'text' AND (present LIKE 'character%' OR present = 'uuid')
                THEN format('%I::text', in_column)
            WHEN in_type = 'jsonb' AND present = 'json'
                THEN format('%I::jsonb', in_column)
            WHEN in_type = 'jsonb' AND present LIKE '%[]'
                THEN format('to_jsonb(%I)', in_column)
            WHEN in_type IN ('integer', 'bigint', 'numeric')
                 AND present IN ('smallint', 'integer', 'bigint')
                THEN format('%I::%s', in_column, in_type)
        END;
        IF conversion IS NULL THEN
            RAISE EXCEPTION 'Column % of table % has type % where % is needed, and it cannot be converted without loss: rename or drop that table, then start again.',
                in_column, relation, present, in_type
                USING ERRCODE = 'datatype_mismatch';
        END IF;
        RAISE WARNING 'Column % of table % is converted from % to %.', in_column, relation, present, in_type;
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I TYPE %s USING %s', relation, in_column, in_type, conversion);
    END IF;

    IF in_default IS NOT NULL AND present_default IS DISTINCT FROM in_default THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', relation, in_column, in_default);
    END IF;
END
$$;

-- Make sure that the primary key is exactly these columns.
CREATE OR REPLACE FUNCTION pg_temp.require_key(in_table TEXT, VARIADIC in_columns TEXT[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    relation CONSTANT regclass := to_regclass(format('%I.%I', current_schema(), in_table));
    present TEXT[];
BEGIN
    SELECT array_agg(a.attname::text ORDER BY k.position)
      INTO present
      FROM pg_constraint AS c
     CROSS JOIN LATERAL unnest(c.conkey) WITH ORDINALITY AS k(attnum, position)
      JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
     WHERE c.conrelid = relation AND c.contype = 'p';

    IF present IS DISTINCT FROM in_columns THEN
        RAISE EXCEPTION 'Table % has the primary key % where (%) is needed: rename or drop that table, then start again.',
            relation, coalesce('(' || array_to_string(present, ', ') || ')', 'none'), array_to_string(in_columns, ', ')
            USING ERRCODE = 'invalid_table_definition';
    END IF;
END
$$;

-- Make an update that changes nothing write nothing.
-- The stock target inserts what is new and then updates every row of the batch, those it has just
-- inserted too. The name starts with z because triggers fire in the order of their names and this
-- one has to see what all others leave behind. ingested_at is in no batch, so the update leaves it
-- alone: a replayed row stays byte for byte what it was.
CREATE OR REPLACE FUNCTION pg_temp.require_quiet_updates(in_table TEXT) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    relation CONSTANT regclass := to_regclass(format('%I.%I', current_schema(), in_table));
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = relation AND tgname = 'zz_suppress_redundant_updates') THEN
        EXECUTE format('CREATE TRIGGER zz_suppress_redundant_updates BEFORE UPDATE ON %s '
                       'FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()', relation);
    END IF;
END
$$;

-- Comment on a table, or on one of its columns.
CREATE OR REPLACE FUNCTION pg_temp.describe(in_table TEXT, in_column TEXT, in_comment TEXT)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    relation CONSTANT regclass := to_regclass(format('%I.%I', current_schema(), in_table));
    present TEXT;
BEGIN
    IF in_column IS NULL THEN
        present := obj_description(relation, 'pg_class');
        IF present IS DISTINCT FROM in_comment THEN
            EXECUTE format('COMMENT ON TABLE %s IS %L', relation, in_comment);
        END IF;
        RETURN;
    END IF;
    SELECT col_description(relation, attnum) INTO present
      FROM pg_attribute WHERE attrelid = relation AND attname = in_column;
    IF present IS DISTINCT FROM in_comment THEN
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', relation, in_column, in_comment);
    END IF;
END
$$;
