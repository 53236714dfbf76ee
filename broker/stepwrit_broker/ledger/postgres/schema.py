"""The log's tables in PostgreSQL, and what only their owner may do with them.

A month of entries is a partition of `ledger_entries` (what is looked up and hashed, kept for ever) and one of
`ledger_bodies` (what the tree commits to, until it is exported). Months follow each other as the numbers do:
`ledger_months` has the first number of each. A broker's role needs SELECT and INSERT, and more only on
`MOVABLE`; the rest is done by the SECURITY DEFINER functions below.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

MOVABLE: Final = ("ledger_head", "ledger_cosignatures", "ledger_salts", "ledger_decisions")
LOCK_CLASS: Final = 0x57524954
"""First half of our advisory locks; the second says which."""
LOCK_SIGNING: Final = 1
LOCK_MONTHS: Final = 2

SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS ledger_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), size bigint NOT NULL, root bytea NOT NULL,
    frontier bytea NOT NULL, month integer NOT NULL
) WITH (fillfactor = 10);
INSERT INTO ledger_head (size, root, frontier, month) VALUES (0, sha256(''), '', 0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS ledger_months (month integer PRIMARY KEY, first bigint NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS ledger_entries (
    month integer NOT NULL, seq bigint NOT NULL, at double precision NOT NULL, kind text NOT NULL, txn text,
    ref text, tenant text, leaf bytea NOT NULL
) PARTITION BY LIST (month);
CREATE INDEX IF NOT EXISTS ledger_entries_by_ref ON ledger_entries (ref) WHERE ref IS NOT NULL;
CREATE INDEX IF NOT EXISTS ledger_entries_by_txn ON ledger_entries (txn) WHERE txn IS NOT NULL;
CREATE TABLE IF NOT EXISTS ledger_bodies (
    month integer NOT NULL, seq bigint NOT NULL, body bytea NOT NULL
) PARTITION BY LIST (month);
CREATE TABLE IF NOT EXISTS ledger_nodes (
    level integer NOT NULL, idx bigint NOT NULL, hash bytea NOT NULL, PRIMARY KEY (level, idx)
);
CREATE TABLE IF NOT EXISTS ledger_checkpoints (
    origin text NOT NULL, size bigint NOT NULL, at double precision NOT NULL, note text NOT NULL,
    PRIMARY KEY (origin, size)
);
CREATE TABLE IF NOT EXISTS ledger_cosignatures (
    origin text NOT NULL, size bigint NOT NULL, witness text NOT NULL, at bigint NOT NULL,
    line text NOT NULL, PRIMARY KEY (origin, size, witness)
);
CREATE INDEX IF NOT EXISTS ledger_cosignatures_by_witness ON ledger_cosignatures (origin, witness, size);
CREATE TABLE IF NOT EXISTS ledger_salts (txn text PRIMARY KEY, salt bytea);
CREATE TABLE IF NOT EXISTS ledger_decisions (digest text PRIMARY KEY, txn text, doc bytea NOT NULL);
CREATE INDEX IF NOT EXISTS ledger_decisions_by_txn ON ledger_decisions (txn) WHERE txn IS NOT NULL;
CREATE TABLE IF NOT EXISTS ledger_meta (name text PRIMARY KEY, value text NOT NULL);

CREATE OR REPLACE FUNCTION ledger_prepare_month(wanted integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE base text; part text;
BEGIN
    IF NOT has_table_privilege(session_user, 'ledger_entries', 'INSERT') THEN
        RAISE EXCEPTION 'only who may append opens months' USING ERRCODE = '42501';
    END IF;
    IF wanted NOT BETWEEN 197001 AND 999912 OR wanted % 100 NOT BETWEEN 1 AND 12 THEN
        RAISE EXCEPTION 'no month of a ledger: %', wanted;
    END IF;
    IF to_regclass('ledger_bodies_' || wanted) IS NOT NULL THEN RETURN false; END IF;
    PERFORM pg_advisory_xact_lock({LOCK_CLASS}, {LOCK_MONTHS});
    FOREACH base IN ARRAY ARRAY['ledger_entries', 'ledger_bodies'] LOOP
        part := base || '_' || wanted;
        CONTINUE WHEN to_regclass(part) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE %I, PRIMARY KEY (seq))', part, base);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES IN (%s)', base, part, wanted);
    END LOOP;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION ledger_drop_bodies(start bigint, upto bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE below bigint; whole record; gone bigint := 0; deleted bigint;
BEGIN
    IF NOT has_table_privilege(session_user, 'ledger_entries', 'INSERT') THEN
        RAISE EXCEPTION 'only who may append drops bodies' USING ERRCODE = '42501';
    END IF;
    SELECT value::bigint INTO below FROM ledger_meta WHERE name = 'dropped_below' FOR UPDATE;
    IF coalesce(below, 0) <> start OR upto <= start THEN
        RAISE EXCEPTION 'bodies were dropped since this export' USING ERRCODE = '55000';
    END IF;
    IF NOT EXISTS (SELECT FROM ledger_checkpoints WHERE size >= upto) THEN
        RAISE EXCEPTION 'no checkpoint covers these entries' USING ERRCODE = '55000';
    END IF;
    FOR whole IN
        SELECT month, first, lead(first) OVER (ORDER BY month) AS following FROM ledger_months
    LOOP
        CONTINUE WHEN whole.first >= upto OR whole.following <= start;
        IF whole.following <= upto THEN
            EXECUTE format('TRUNCATE %I', 'ledger_bodies_' || whole.month);
            gone := gone + whole.following - greatest(whole.first, start);
        ELSE
            DELETE FROM ledger_bodies
                WHERE month = whole.month AND seq >= start AND seq < upto;
            GET DIAGNOSTICS deleted = ROW_COUNT;
            gone := gone + deleted;
        END IF;
    END LOOP;
    INSERT INTO ledger_meta (name, value) VALUES ('dropped_below', upto::text)
        ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value;
    RETURN gone;
END $$;

DO $$
DECLARE named text;
BEGIN
    FOREACH named IN ARRAY ARRAY['ledger_prepare_month(integer)', 'ledger_drop_bodies(bigint, bigint)']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', named, current_schema());
    END LOOP;
END $$;
"""  # noqa: S608  constants


def month_of(at: float) -> int:
    """The month of a time (seconds since the epoch; UTC) as its partition is named: 202611."""
    when = datetime.fromtimestamp(at, UTC)
    return when.year * 100 + when.month


def next_month(month: int) -> int:
    """The one after it."""
    return month + 1 if month % 100 < 12 else month + 89
