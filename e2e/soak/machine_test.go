package main

import "testing"

func TestParseStat(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want usage
		ok   bool
	}{
		// user nice system idle iowait irq softirq steal guest guest_nice
		"Linux":      {"cpu  10 20 30 400 500 6 7 8 9 10\ncpu0 1 2 3\n", usage{busy: 81, all: 981}, true},
		"cut short":  {"cpu  10 20\n", usage{}, false},
		"no number":  {"cpu  10 x 30 400 500 6 7 8\n", usage{}, false},
		"other file": {"MemTotal: 8\n", usage{}, false},
	} {
		got, err := parseStat([]byte(test.text))
		if got != test.want && test.ok || (err == nil) != test.ok {
			t.Errorf("%s: %+v, error %v; want %+v", name, got, err, test.want)
		}
	}
}
