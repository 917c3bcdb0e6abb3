package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/witness"
)

func TestWrittenTableKeepsRowsThatWereNotRunNow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chaos.md")
	if err := os.WriteFile(path, []byte("before\n\n"+beginMark+endMark+"\n\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	names := []string{"a", "b", "c"}
	for _, rows := range [][]row{
		{{"c", "about c", "FAILED"}, {"a", "about a", "passed"}},
		{{"b", "about b", "passed"}, {"c", "about c", "passed", "2", "1.00 s", "2.00 s", "3 (1)", "0", "a | b"}},
	} {
		if err := writeTable(path, rows, names); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := "before\n\n" + beginMark + columns.markdown() + strings.Repeat("|---", len(columns)) + "|\n" +
		"| a | about a | passed |  |  |  |  |  |  |\n" +
		"| b | about b | passed |  |  |  |  |  |  |\n" +
		"| c | about c | passed | 2 | 1.00 s | 2.00 s | 3 (1) | 0 | a / b |\n" +
		endMark + "\n\nafter\n"
	if string(text) != want {
		t.Errorf("got:\n%s\nwant:\n%s", text, want)
	}
	if err := writeTable(filepath.Join("..", "..", "go.mod"), nil, names); err == nil {
		t.Error("a document without marks was written to")
	}
}

func TestFaultsOfAResult(t *testing.T) {
	overlap := witness.Violation{Rule: witness.OneCopy, Message: "ran beside"}
	restored := witness.Move{Migration: "m", Restored: true}
	for name, test := range map[string]struct {
		result result
		want   string // empty: none
	}{
		"as wanted":      {result{scenario: scenario{want: outcome{moved: 1}}, moves: []witness.Move{restored}}, ""},
		"nothing moved":  {result{scenario: scenario{want: outcome{moved: 1}}}, "0 pods were recovered, want 1"},
		"started anew":   {result{scenario: scenario{want: outcome{moved: anyNumber}}, moves: []witness.Move{{Migration: "m"}}}, "started anew"},
		"two copies":     {result{verdicts: []witness.Verdict{{Violations: []witness.Violation{overlap}, Overlap: time.Second}}}, "ran beside"},
		"within a limit": {result{scenario: scenario{want: outcome{overlap: time.Second}}, verdicts: []witness.Verdict{{Violations: []witness.Violation{overlap}, Overlap: time.Second}}}, ""},
		"stood still": {result{
			scenario: scenario{want: outcome{standstill: time.Second}},
			verdicts: []witness.Verdict{{Standstill: witness.Gap{From: time.Unix(0, 0), To: time.Unix(2, 0)}}},
		}, "no step was made for 2.0 s"},
		"failed":          {result{failed: []failure{{"m", v1alpha1.ReasonPodReplaced, "lost too"}}}, "Migration m failed"},
		"lost twice":      {result{scenario: scenario{want: outcome{replaced: true}}, failed: []failure{{"m", v1alpha1.ReasonPodReplaced, "lost too"}}}, ""},
		"no reason given": {result{scenario: scenario{want: outcome{held: v1alpha1.HeldStormGuard}}}, "held because of StormGuard"},
	} {
		faults := strings.Join(test.result.faults(), "\n")
		if test.want == "" && faults != "" || !strings.Contains(faults, test.want) {
			t.Errorf("%s: faults %q, want %q", name, faults, test.want)
		}
	}
}

func TestEveryScenarioCanBeChosenByItsName(t *testing.T) {
	for _, sc := range scenarios {
		if chosen, err := choose(sc.name); err != nil || len(chosen) != 1 || chosen[0].name != sc.name {
			t.Errorf("--only %s chooses %d scenarios: %v", sc.name, len(chosen), err)
		}
	}
	if chosen, err := choose("leader-killed,power-cut"); err != nil || len(chosen) != len(phases)+1 {
		t.Errorf("--only leader-killed,power-cut chooses %d scenarios: %v", len(chosen), err)
	}
	if _, err := choose("lightning"); err == nil {
		t.Error("a scenario that does not exist was chosen")
	}
}

func TestCountsThatOnlyARestoreExplains(t *testing.T) {
	second := func(n int) time.Time { return time.Unix(int64(n), 0) }
	answers := []counted{{second(1), 1}, {second(2), 2}, {second(3), 3}, {second(9), 3}, {second(10), 4}}
	for name, test := range map[string]struct {
		answers []counted
		moves   []witness.Move
		fault   bool
	}{
		"nothing happened": {answers[:3], nil, false},
		"restored":         {answers, []witness.Move{{Restored: true, TakenAt: second(2).Add(time.Millisecond)}}, false},
		"too much is lost": {answers, []witness.Move{{Restored: true, TakenAt: second(3).Add(time.Millisecond)}}, true},
		"nothing explains": {answers, nil, true},
	} {
		if err := judgeCounts(test.answers, test.moves); (err != nil) != test.fault {
			t.Errorf("%s: %v", name, err)
		}
	}
}
