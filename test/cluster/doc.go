// Package cluster tests several servers over one database, as processes of their own that are killed and cut off. The
// nodes are simulated with real keys, real quotes and the real protocol.
package cluster
