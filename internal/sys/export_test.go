package sys

// ParseChanges is for the fuzzer.
var ParseChanges = parseChanges
