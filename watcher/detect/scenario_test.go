package detect

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

// TestScenarios plays each file of testdata. A line "at 1.5s: power n1 off" does
// something, a line "expect at 3s: n1 …" says what is then known of a node; the
// indented lines below it are the node's signals. What follows the node's name is
// the outcome: run the test with -update to write it.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d scenarios, want 20 or more: %v", len(files), err)
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
	w := newWorld()
	expectations := 0
	for scan := bufio.NewScanner(strings.NewReader(scenario)); scan.Scan(); {
		line := scan.Text()
		if strings.HasPrefix(line, " ") {
			continue // a signal of before
		}
		if line == "" || strings.HasPrefix(line, "#") {
			fmt.Fprintln(&out, line)
			continue
		}
		head, tail, _ := strings.Cut(line, ": ")
		expected := strings.HasPrefix(head, "expect ")
		words, fields := strings.Fields(head), strings.Fields(tail)
		after, err := time.ParseDuration(words[len(words)-1])
		if err != nil || len(fields) < 2 && !expected || after%tick != 0 {
			t.Fatalf("line %q: want \"at 1.5s: command arguments\" or \"expect at 1.5s: node\", in steps of %s", line, tick)
		}
		if then := began.Add(after); then.Before(w.now) {
			t.Fatalf("line %q: before the line above it", line)
		}
		w.until(began.Add(after))
		if expected {
			expectations++
			fmt.Fprintf(&out, "%s: %s\n", head, describe(w.fact(fields[0])))
			continue
		}
		if err := w.do(fields[0], fields[1:]); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		fmt.Fprintln(&out, line)
	}
	if expectations == 0 {
		t.Fatal("the scenario expects nothing")
	}
	return out.String()
}
