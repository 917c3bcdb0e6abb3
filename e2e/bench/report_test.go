package main

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
)

// reported is what a report prints for the rows of a benchmark, when every measure
// of a side has the values that value gives.
func reported(t *testing.T, b bench, value func(at row, s side, measure string) []float64) (*report, string) {
	t.Helper()
	rows, err := plan(b, options{})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r := newReport(b, &out, &strings.Builder{})
	r.event(event{Facts: &facts{Kernel: "6.18.44-1-cloud-amd64", Processors: 2, MemoryMB: 24000, CRIU: "4.2.1", Runc: "1.1.15", StoreDisk: "ext4", Tracking: "userfaultfd", Load: "12.34"}})
	for _, at := range rows {
		for _, s := range []side{stock, ours, away} {
			for _, measure := range []string{
				pauseGap, pauseEngine, quietGap, total, phasePrefix + "freeze", phasePrefix + "read memory", phasePrefix + "page daemon", phasePrefix + "files", phasePrefix + "thaw",
				resident, firstNew, storedNew, sentNew, sealAlone, processor, firstAnswer, drainTime, drainBytes, faults,
			} {
				for run, v := range value(at, s, measure) {
					r.event(event{Sample: &sample{at, s, measure, run, v}})
				}
			}
		}
		r.event(event{Done: &at})
	}
	r.end()
	return r, out.String()
}

func TestTablesFitAScreen(t *testing.T) {
	for b := range tables {
		for _, v := range []float64{0, 0.00123, 99.99} {
			_, out := reported(t, b, func(row, side, string) []float64 { return []float64{v} })
			for line := range strings.Lines(out) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 120 {
					t.Errorf("%s: a line of %d columns: %s", b, n, line)
				}
			}
			if t.Failed() {
				return
			}
		}
		if _, out := reported(t, b, func(row, side, string) []float64 { return nil }); !strings.Contains(out, "not measured") {
			t.Errorf("%s: without a measurement the aims are\n%s", b, out)
		}
	}
}

func TestPauseAims(t *testing.T) {
	at := func(small, big float64) string {
		_, out := reported(t, benchCheckpoint, func(at row, s side, measure string) []float64 {
			switch {
			case measure != pauseGap:
				return nil
			case s == stock:
				return []float64{0.9, 1.0, 1.6}
			case at.Content == content.Text && at.Bytes == smallBytes:
				return []float64{small, small, 9}
			case at.Content == content.Zeros && at.Bytes == gibibyte:
				return []float64{big, big, 9}
			}
			return []float64{0.001}
		})
		return out
	}
	for _, want := range []string{"64 MB: met: 30.0 ms (text 64 MB, 0 %)", "rewritten: met: 5.0 times (zeros 1 GB, 1 %)"} {
		if out := at(0.030, 0.2); !strings.Contains(out, want) {
			t.Errorf("it lacks %q:\n%s", want, out)
		}
	}
	for _, want := range []string{"64 MB: NOT MET: 30.5 ms (text 64 MB, 0 %)", "rewritten: NOT MET: 4.0 times (zeros 1 GB, 1 %)"} {
		if out := at(0.0305, 0.25); !strings.Contains(out, want) {
			t.Errorf("it lacks %q:\n%s", want, out)
		}
	}
}

func TestStoreAims(t *testing.T) {
	at := func(stored, sent, rate float64) string {
		_, out := reported(t, benchStore, func(at row, _ side, measure string) []float64 {
			switch measure {
			case resident:
				return []float64{1e8}
			case storedNew:
				return []float64{stored * 1e8}
			case sentNew:
				return []float64{sent * 1e8}
			case sealAlone:
				if at.Dirty == 0 {
					return []float64{0.1 / rate}
				}
			}
			return nil
		})
		return out
	}
	for want, out := range map[string]string{
		"1 % rewritten: met: 3.00 %":         at(0.03, 0.02, 1),
		"1 % rewritten: NOT MET: 4.00 %":     at(0.03, 0.04, 1),
		"nothing rewritten: met: 0.50 %":     at(0.005, 0.004, 1),
		"nothing rewritten: NOT MET: 0.60 %": at(0.006, 0.004, 1),
		"per core: met: 1.00 GB/s":           at(0, 0, 1),
		"per core: NOT MET: 0.90 GB/s":       at(0, 0, 0.9),
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it lacks %q:\n%s", want, out)
		}
	}
}

func TestRestoreAims(t *testing.T) {
	_, out := reported(t, benchRestore, func(at row, s side, measure string) []float64 {
		if measure != firstAnswer {
			return nil
		}
		return map[side][]float64{
			stock: {float64(at.Bytes) / 1e9}, ours: {0.1 + float64(at.Bytes)/gibibyte/100}, away: {0.2 + float64(at.Bytes)/gibibyte},
		}[s]
	})
	for _, want := range []string{
		"own store: met: 140.0 ms (random 4 GB, 1 %)", "own store: met: 1.4 times", "another node: NOT MET: 16.0 times",
		"another node      4200     4200     4200       1.0",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it lacks %q:\n%s", want, out)
		}
	}
}

func TestEveryMeasurementIsWritten(t *testing.T) {
	r, _ := reported(t, benchRestore, func(row, side, string) []float64 { return []float64{1.5, 2} })
	r.event(event{Failed: &failure{row{workload: workload{Redis: true}}, "why"}})
	dir := t.TempDir()
	for _, name := range []string{"out.json", "out.csv"} {
		if err := r.write(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "out.json"))
	if err != nil {
		t.Fatal(err)
	}
	var read results
	if err := json.Unmarshal(raw, &read); err != nil || len(read.Samples) != len(r.Samples) || len(read.Failures) != 1 || read.Facts.Kernel == "" {
		t.Errorf("%d samples, %d failures, %+v, %v", len(read.Samples), len(read.Failures), read.Facts, err)
	}
	file, err := os.Open(filepath.Join(dir, "out.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	records, err := csv.NewReader(file).ReadAll()
	if err != nil || len(records) != len(r.Samples)+1 {
		t.Errorf("%d records for %d samples, %v", len(records), len(r.Samples), err)
	}
	if err := r.write(filepath.Join(dir, "missing", "out.csv")); err == nil {
		t.Error("a file in a folder that is not there was written")
	}
}

func TestSpread(t *testing.T) {
	for name, test := range map[string]struct {
		values []float64
		want   spread
	}{
		"one":  {[]float64{3}, spread{3, 3, 3}},
		"odd":  {[]float64{9, 1, 4}, spread{1, 4, 9}},
		"even": {[]float64{9, 1, 4, 5}, spread{1, 4.5, 9}},
	} {
		if got, ok := spreadOf(test.values); !ok || got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	if _, ok := spreadOf(nil); ok {
		t.Error("nothing has a spread")
	}
}
