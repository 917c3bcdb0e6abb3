package preflight

import "testing"

// A second look refuses only what the first one did: what came and went between the
// two, or is another process's, is left to CRIU.
func TestInsists(t *testing.T) {
	socket := Finding{Container: "app", Severity: Refuses, Reason: OutsideSocket, Pid: 7, Command: "socat"}
	other, warning := socket, socket
	other.Pid = 8
	warning.Severity = Warns
	for name, tc := range map[string]struct {
		first, second []Finding
		want          bool
	}{
		"it stays":               {[]Finding{socket}, []Finding{other, socket}, true},
		"it went":                {[]Finding{socket}, nil, false},
		"it came":                {nil, []Finding{socket}, false},
		"another process":        {[]Finding{socket}, []Finding{other}, false},
		"a warning is no reason": {[]Finding{warning}, []Finding{warning}, false},
	} {
		t.Run(name, func(t *testing.T) {
			second := Report{Findings: tc.second}
			if f := second.Insists(Report{Findings: tc.first}); (f != nil) != tc.want || f != nil && *f != socket {
				t.Errorf("it insists on %+v", f)
			}
			if left := second.WithoutRefusals(); !left.Checkpointable() || len(second.Findings) != len(tc.second) {
				t.Errorf("without refusals it is %+v, and itself %+v", left, second)
			}
		})
	}
}
