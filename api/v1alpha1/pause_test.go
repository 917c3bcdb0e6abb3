package v1alpha1

import "testing"

func TestParseRecoveries(t *testing.T) {
	for value, want := range map[string]struct {
		reason string
		wrong  bool
	}{
		"":                             {},
		"paused":                       {reason: unknownReason},
		" paused \n":                   {reason: unknownReason},
		"paused:":                      {reason: unknownReason},
		"paused: the network: rack 4 ": {reason: "the network: rack 4"},
		"Paused":                       {wrong: true},
		"pausedforever":                {wrong: true},
		"true":                         {wrong: true},
	} {
		reason, err := ParseRecoveries(value)
		if reason != want.reason || (err != nil) != want.wrong {
			t.Errorf("ParseRecoveries(%q) = %q, %v; want %q, error %t", value, reason, err, want.reason, want.wrong)
		}
	}
	for given, want := range map[string]string{"": unknownReason, "a: b": "a: b"} {
		if got, err := ParseRecoveries(PausedRecoveries(given)); got != want || err != nil {
			t.Errorf("reason %q came back as %q, %v; want %q", given, got, err, want)
		}
	}
}
