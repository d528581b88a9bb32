-- Small documents of the server's own: webhooks, what could not be delivered, leases of its duties.

CREATE TABLE shelf (
  namespace TEXT NOT NULL REFERENCES namespaces (namespace),
  kind      TEXT NOT NULL,
  id        TEXT NOT NULL,
  doc       BLOB NOT NULL,
  PRIMARY KEY (namespace, kind, id)
) STRICT, WITHOUT ROWID;
