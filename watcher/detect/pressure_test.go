package detect

import (
	"strings"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestPressureText(t *testing.T) {
	for text, want := range map[string]Pressure{
		"memory=40,io=40,cpu=90":      DefaultPressure,
		"cpu=0, io=0 ,memory=0":       {},
		"io=70":                       {Memory: 40, IO: 70, CPU: 90},
		"memory=100,memory=50":        {Memory: 50, IO: 40, CPU: 90},
		written(t, Pressure{1, 2, 3}): {1, 2, 3},
	} {
		got := DefaultPressure
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "memory", "memory=", "memory=101", "io=-1", "disk=40", "memory=40;io=40", "cpu=90,", "cpu=0.5", "memory=40%"} {
		got := DefaultPressure
		if err := got.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "use words like") || got != DefaultPressure {
			t.Errorf("%q is %+v, %v; want an error and no change", text, got, err)
		}
	}
}

func written(t *testing.T, p Pressure) string {
	t.Helper()
	text, err := p.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestPressureChosen: what is left out is no signal however long it lasts, and the rest
// is from the threshold on.
func TestPressureChosen(t *testing.T) {
	for _, tc := range []struct {
		limits Pressure
		load   v1alpha1.NodeLoad
		want   string
	}{
		{DefaultPressure, v1alpha1.NodeLoad{MemoryPressure: 30, IOPressure: 30, CPUPressure: 100}, "a processor in 90 %"},
		{Pressure{Memory: 40, IO: 40}, v1alpha1.NodeLoad{MemoryPressure: 30, IOPressure: 30, CPUPressure: 100}, ""},
		{Pressure{Memory: 30}, v1alpha1.NodeLoad{MemoryPressure: 30, IOPressure: 100, CPUPressure: 100}, "memory in 30 %"},
		{Pressure{}, v1alpha1.NodeLoad{MemoryPressure: 100, IOPressure: 100, CPUPressure: 100}, ""},
	} {
		var l load
		start := time.Unix(0, 0)
		for at := start; at.Before(start.Add(2 * pressureFor)); at = at.Add(time.Second) {
			l.take(at, &tc.load, tc.limits)
		}
		signals := l.signals(start.Add(2*pressureFor), tc.limits)
		if tc.want == "" && len(signals) > 0 || tc.want != "" && (len(signals) != 1 || !strings.Contains(signals[0].Message, tc.want)) {
			t.Errorf("%+v with %+v: %+v, want %q", tc.limits, tc.load, signals, tc.want)
		}
	}
}
