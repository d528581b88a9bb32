-- Small documents of the server's own: webhooks, what could not be delivered, leases of its duties.

CREATE TABLE shelf (
  namespace text COLLATE "C" NOT NULL REFERENCES namespaces (namespace),
  kind      text COLLATE "C" NOT NULL,
  id        text COLLATE "C" NOT NULL,
  doc       bytea NOT NULL,
  PRIMARY KEY (namespace, kind, id)
);
