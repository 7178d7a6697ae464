// Package archtest holds no code, only a test: it reads what every package of
// the module imports (go list) and keeps the project's import rules.
//
//	idmap                      imports nothing of ours
//	detect, native, fusefs     never import one another
//	unsafe, raw system calls   only internal/sys, and fusefs where the wire format asks for it
//
// Only the top (package idmount, cmd, bench and the test rigs) sees several backends.
package archtest
