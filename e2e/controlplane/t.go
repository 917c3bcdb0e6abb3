package controlplane

import "context"

// T is what is needed of a test. *testing.T is one; a benchmark that is a program of its
// own has another. Its Fatal and Fatalf do not return, its context ends before its
// cleanups run, and its folders go with it.
type T interface {
	Helper()
	Log(args ...any)
	Logf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(cleanup func())
	Context() context.Context
	TempDir() string
}
