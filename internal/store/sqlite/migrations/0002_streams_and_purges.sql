-- Open streams, and what purging needs: when a blob was last put, and which record a node stands on.

CREATE TABLE streams (
  namespace TEXT    NOT NULL REFERENCES namespaces (namespace),
  node      TEXT    NOT NULL,
  instance  TEXT    NOT NULL,               -- digest of the agent process's instance nonce
  server    TEXT    NOT NULL,
  fence     INTEGER NOT NULL,
  PRIMARY KEY (namespace, node, instance)
) STRICT, WITHOUT ROWID;

ALTER TABLE namespaces ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;

-- When the blobs that are there were put nobody wrote down; they count as new, so that none goes too early.
ALTER TABLE blobs ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
UPDATE blobs SET at = CAST(strftime('%s', 'now') AS INTEGER) * 1000000000;
CREATE INDEX blobs_by_time ON blobs (namespace, at);

ALTER TABLE nodes ADD COLUMN last TEXT NOT NULL DEFAULT '';
UPDATE nodes SET last = coalesce(json_extract(CAST(doc AS TEXT), '$.last'), '');
CREATE INDEX nodes_by_last ON nodes (namespace, last);

CREATE INDEX records_by_time ON records (namespace, at);
CREATE INDEX events_by_time ON events (namespace, at);
