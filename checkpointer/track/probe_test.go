package track

import "testing"

func TestProbe(t *testing.T) {
	method, err := Probe()
	t.Logf("the best method is %s; of the others: %v", method, err)
	if method == None {
		t.Skip("no method works on this kernel")
	}
	if err := Works(method); err != nil {
		t.Fatal(err)
	}
	if Works("guessing") == nil {
		t.Fatal("a method that is none works")
	}
}
