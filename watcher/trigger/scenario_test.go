package trigger

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the scenarios' outcomes into testdata")

// TestScenarios plays each file of testdata. The first line names the triggers that are
// on. A line "at 5s: pod cart-0 on n1" does something; the indented lines below it are
// the outcome: what is moved from then on, and what whoever evicts a pod is told. Run the
// test with -update to write it.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d scenarios, want 10 or more: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}

// play plays a scenario and returns it with its outcome.
func play(t *testing.T, scenario string) string {
	t.Helper()
	var out strings.Builder
	w := newWorld(&out)
	for scan := bufio.NewScanner(strings.NewReader(scenario)); scan.Scan(); {
		line := scan.Text()
		switch {
		case strings.HasPrefix(line, " "): // an outcome of before
			continue
		case line == "" || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
			continue
		case strings.HasPrefix(line, "on: "):
			if err := w.switchOn(strings.Fields(line)[1:]); err != nil {
				t.Fatalf("line %q: %v", line, err)
			}
			fmt.Fprintln(&out, line)
			continue
		}
		head, tail, _ := strings.Cut(line, ": ")
		after, err := time.ParseDuration(strings.TrimPrefix(head, "at "))
		if err != nil || after < w.passed() || after%tick != 0 {
			t.Fatalf("line %q: want \"at 5s: command arguments\", in steps of %s", line, tick)
		}
		w.until(began.Add(after))
		fmt.Fprintln(&out, line)
		if err := w.do(strings.Fields(tail)); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
	}
	return out.String()
}
