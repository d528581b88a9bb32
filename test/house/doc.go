// Package house tests the house rules of this repository: which room may know which (ARCHITECTURE.md part 4), that
// clocks and randomness are injected, that every refusal has a registered, used and tested code, that files and
// functions keep their size, and that the documentation tells the truth about the tree (the table of rooms, links,
// references to functions, generated pages).
//
// It reads sources and `go list` only; it starts no program of the project and guarantees nothing about behaviour.
// Rules that need an exception hold it in a table beside the rule, with the reason; an exception nobody needs any more
// fails too.
package house
