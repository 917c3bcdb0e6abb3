package track

// Probe finds the best method that works on this kernel, by trying it on memory of its own.
func Probe() (Method, error) { return None, nil }
