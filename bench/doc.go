// Package bench holds the benchmarks that need more than one package: whole attestations against a server process. They
// report figures and never pass or fail by them.
package bench
