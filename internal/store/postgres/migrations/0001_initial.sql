-- Every table of a namespace's data has the namespace in its primary key: no statement can reach a row without naming whose
-- it is. Times are Unix nanoseconds (PostgreSQL's own keep microseconds); documents (doc) are JSON of the struct in package
-- store, kept as bytes; columns beside them are its index. Texts compare by bytes (COLLATE "C").

-- One row per namespace is what every update of it locks first: updates of one namespace are serial across servers, so
-- that events and audit leaves are numbered without gap and commit in the order of their numbers.
CREATE TABLE namespaces (
  namespace  text COLLATE "C" NOT NULL PRIMARY KEY,
  created    bigint NOT NULL,
  epoch      bigint NOT NULL DEFAULT 1,
  purged     bigint NOT NULL DEFAULT 0,     -- high-water time: spent ids that ended before it are forgotten, and refused
  events     bigint NOT NULL DEFAULT 0,     -- number of the newest event
  leaves     bigint NOT NULL DEFAULT 0,     -- number of the newest audit leaf
  leaf       text   NOT NULL DEFAULT '',    -- its hash
  fence      bigint NOT NULL DEFAULT 0      -- of the newest stream
) WITH (fillfactor = 50);

CREATE TABLE nodes (
  namespace text COLLATE "C" NOT NULL REFERENCES namespaces (namespace),
  id        text COLLATE "C" NOT NULL,
  name      text COLLATE "C" NOT NULL,
  kind      text COLLATE "C" NOT NULL,
  parent    text COLLATE "C" NOT NULL,
  last      text COLLATE "C" NOT NULL,
  doc       bytea NOT NULL,
  PRIMARY KEY (namespace, id)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX nodes_by_name ON nodes (namespace, name);

CREATE TABLE records (
  namespace text COLLATE "C" NOT NULL REFERENCES namespaces (namespace),
  id        text COLLATE "C" NOT NULL,
  subject   text COLLATE "C" NOT NULL,
  at        bigint NOT NULL,
  n         bigint NOT NULL GENERATED ALWAYS AS IDENTITY,   -- the order of putting
  doc       bytea  NOT NULL,
  PRIMARY KEY (namespace, id)
);
CREATE INDEX records_by_subject ON records (namespace, subject, at, n);
CREATE INDEX records_by_time ON records (namespace, at);

CREATE TABLE spent (
  namespace text COLLATE "C" NOT NULL REFERENCES namespaces (namespace),
  id        bytea  NOT NULL,
  until     bigint NOT NULL,
  PRIMARY KEY (namespace, id)
);
CREATE INDEX spent_by_until ON spent (namespace, until);

CREATE TABLE events (
  namespace text COLLATE "C" NOT NULL REFERENCES namespaces (namespace),
  seq       bigint NOT NULL,
  at        bigint NOT NULL,
  kind      text COLLATE "C" NOT NULL,
  subject   text COLLATE "C" NOT NULL,
  data      bytea,
  PRIMARY KEY (namespace, seq)
);
CREATE INDEX events_by_time ON events (namespace, at);

CREATE TABLE blobs (
  namespace text COLLATE "C" NOT NULL REFERENCES namespaces (namespace),
  digest    bytea  NOT NULL,               -- SHA-256 of data
  at        bigint NOT NULL,               -- when it was last put, give or take store.BlobTouch
  data      bytea  NOT NULL,
  PRIMARY KEY (namespace, digest)
);
CREATE INDEX blobs_by_time ON blobs (namespace, at);

CREATE TABLE documents (
  namespace  text COLLATE "C" NOT NULL REFERENCES namespaces (namespace),
  kind       text COLLATE "C" NOT NULL,
  name       text COLLATE "C" NOT NULL,
  version    bigint NOT NULL,
  digest     text   NOT NULL,
  body       bytea  NOT NULL,
  signatures bytea,
  author     text   NOT NULL,
  at         bigint NOT NULL,
  deleted    boolean NOT NULL,
  PRIMARY KEY (namespace, kind, name, version)
);

CREATE TABLE secrets (
  namespace text COLLATE "C" NOT NULL REFERENCES namespaces (namespace),
  name      text COLLATE "C" NOT NULL,
  version   bigint NOT NULL,
  sealed    bytea,                         -- NULL once deleted
  rule      text   NOT NULL,
  warning   boolean NOT NULL,
  max_age   bigint NOT NULL,
  created   bigint NOT NULL,
  deleted   bigint,                        -- when
  PRIMARY KEY (namespace, name, version)
);

CREATE TABLE tokens (
  namespace text COLLATE "C" NOT NULL REFERENCES namespaces (namespace),
  id        text COLLATE "C" NOT NULL,
  used      boolean NOT NULL,
  doc       bytea NOT NULL,
  PRIMARY KEY (namespace, id)
);

CREATE TABLE audit (
  namespace text COLLATE "C" NOT NULL REFERENCES namespaces (namespace),
  seq       bigint NOT NULL,
  at        bigint NOT NULL,
  actor     text   NOT NULL,
  verb      text   NOT NULL,
  object    text   NOT NULL,
  detail    bytea,
  prev      text   NOT NULL,
  hash      text   NOT NULL,
  PRIMARY KEY (namespace, seq)
);

-- The servers that share this database: a lease each, in the database's time. They belong to no namespace.
CREATE SEQUENCE fences;
CREATE TABLE servers (
  id    text COLLATE "C" NOT NULL PRIMARY KEY,
  fence bigint NOT NULL,
  until timestamptz NOT NULL
);

CREATE TABLE streams (
  namespace text COLLATE "C" NOT NULL REFERENCES namespaces (namespace),
  node      text COLLATE "C" NOT NULL,
  instance  text NOT NULL,                 -- digest of the agent process's instance nonce
  server    text COLLATE "C" NOT NULL,
  lease     bigint NOT NULL,               -- the server's fence when it opened the stream
  fence     bigint NOT NULL,
  PRIMARY KEY (namespace, node, instance)
);

-- Evidence doesn't compress, and deleted secrets are overwritten row by row: no time is spent on compressing.
ALTER TABLE blobs ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE records ALTER COLUMN doc SET STORAGE EXTERNAL;
