-- Every table belongs to a namespace and has it in its primary key: no statement can reach a row without naming whose it is.
-- Times are Unix nanoseconds; documents (doc) are JSON of the struct in package store, columns beside them are its index.

CREATE TABLE namespaces (
  namespace TEXT    NOT NULL PRIMARY KEY,
  created   INTEGER NOT NULL,
  epoch     INTEGER NOT NULL DEFAULT 1,
  purged    INTEGER NOT NULL DEFAULT 0   -- high-water time: spent ids that ended before it are forgotten, and refused
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
  namespace TEXT NOT NULL REFERENCES namespaces (namespace),
  id        TEXT NOT NULL,
  name      TEXT NOT NULL,
  kind      TEXT NOT NULL,
  parent    TEXT NOT NULL,
  doc       BLOB NOT NULL,
  PRIMARY KEY (namespace, id)
) STRICT;
CREATE UNIQUE INDEX nodes_by_name ON nodes (namespace, name);
CREATE INDEX nodes_by_parent ON nodes (namespace, parent) WHERE parent <> '';

CREATE TABLE records (
  namespace TEXT    NOT NULL REFERENCES namespaces (namespace),
  id        TEXT    NOT NULL,
  subject   TEXT    NOT NULL,
  at        INTEGER NOT NULL,
  doc       BLOB    NOT NULL,
  PRIMARY KEY (namespace, id)
) STRICT;
CREATE INDEX records_by_subject ON records (namespace, subject, at);

CREATE TABLE spent (
  namespace TEXT    NOT NULL REFERENCES namespaces (namespace),
  id        BLOB    NOT NULL,
  until     INTEGER NOT NULL,
  PRIMARY KEY (namespace, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX spent_by_until ON spent (namespace, until);

CREATE TABLE events (
  namespace TEXT    NOT NULL REFERENCES namespaces (namespace),
  seq       INTEGER NOT NULL,
  at        INTEGER NOT NULL,
  kind      TEXT    NOT NULL,
  subject   TEXT    NOT NULL,
  data      BLOB,
  PRIMARY KEY (namespace, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
  namespace TEXT NOT NULL REFERENCES namespaces (namespace),
  digest    BLOB NOT NULL,               -- SHA-256 of data
  data      BLOB NOT NULL,
  PRIMARY KEY (namespace, digest)
) STRICT;

CREATE TABLE documents (
  namespace  TEXT    NOT NULL REFERENCES namespaces (namespace),
  kind       TEXT    NOT NULL,
  name       TEXT    NOT NULL,
  version    INTEGER NOT NULL,
  digest     TEXT    NOT NULL,
  body       BLOB    NOT NULL,
  signatures BLOB,
  author     TEXT    NOT NULL,
  at         INTEGER NOT NULL,
  deleted    INTEGER NOT NULL,
  PRIMARY KEY (namespace, kind, name, version)
) STRICT;

CREATE TABLE secrets (
  namespace TEXT    NOT NULL REFERENCES namespaces (namespace),
  name      TEXT    NOT NULL,
  version   INTEGER NOT NULL,
  sealed    BLOB,                        -- NULL once deleted
  rule      TEXT    NOT NULL,
  warning   INTEGER NOT NULL,
  max_age   INTEGER NOT NULL,
  created   INTEGER NOT NULL,
  deleted   INTEGER,                     -- when
  PRIMARY KEY (namespace, name, version)
) STRICT;

CREATE TABLE tokens (
  namespace TEXT    NOT NULL REFERENCES namespaces (namespace),
  id        TEXT    NOT NULL,
  used      INTEGER NOT NULL,
  doc       BLOB    NOT NULL,
  PRIMARY KEY (namespace, id)
) STRICT;

CREATE TABLE audit (
  namespace TEXT    NOT NULL REFERENCES namespaces (namespace),
  seq       INTEGER NOT NULL,
  at        INTEGER NOT NULL,
  actor     TEXT    NOT NULL,
  verb      TEXT    NOT NULL,
  object    TEXT    NOT NULL,
  detail    BLOB,
  prev      TEXT    NOT NULL,
  hash      TEXT    NOT NULL,
  PRIMARY KEY (namespace, seq)
) STRICT, WITHOUT ROWID;
