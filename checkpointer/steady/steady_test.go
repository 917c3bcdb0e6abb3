package steady

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// playVariable is a file: the tests below are played, and leave word there.
const playVariable = "LIFEBOAT_TEST_STEADY_PLAY"

func TestMain(m *testing.M) {
	if os.Getenv(playVariable) == "" {
		os.Exit(m.Run())
	}
	os.Exit(Main(m.Run, 200*time.Millisecond))
}

// TestPlayedStall fails the first time. Meanwhile it stops the process that watches, as
// a machine that stands still does.
func TestPlayedStall(t *testing.T) {
	played(t, func() {
		watching := os.Getppid()
		if err := syscall.Kill(watching, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := syscall.Kill(watching, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	})
}

// TestPlayedFailure fails the first time, on a machine that goes on.
func TestPlayedFailure(t *testing.T) { played(t, func() {}) }

// TestPlayedPass passes.
func TestPlayedPass(t *testing.T) {
	if os.Getenv(playVariable) == "" {
		t.Skip("it is played by TestOnceMore")
	}
	told(t, "pass\n")
}

func played(t *testing.T, first func()) {
	if os.Getenv(playVariable) == "" {
		t.Skip("it is played by TestOnceMore")
	}
	before, _ := os.ReadFile(os.Getenv(playVariable))
	told(t, "ran\n")
	if !bytes.Contains(before, []byte("ran\n")) {
		first()
		t.Error("the first time")
	}
}

func told(t *testing.T, word string) {
	file, err := os.OpenFile(os.Getenv(playVariable), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(word); err != nil {
		t.Fatal(err)
	}
}

func TestOnceMore(t *testing.T) {
	for _, c := range []struct {
		name, run  string
		fails      bool
		want, says string
	}{
		{"after a stall, and only what failed", "TestPlayed(Stall|Pass)", false, "ran\npass\nran\n", "Once more: TestPlayedStall\n"},
		{"not without one", "TestPlayedFailure", true, "ran\n", "--- FAIL: TestPlayedFailure"},
		{"not what passes", "TestPlayedPass", false, "pass\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for try := 1; ; try++ {
				word := filepath.Join(t.TempDir(), "word")
				command := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+c.run+"$")
				command.Env = append(os.Environ(), playVariable+"="+word)
				watched := watchStalls()
				output, err := command.CombinedOutput()
				stall := watched()
				got, _ := os.ReadFile(word)
				if (err != nil) == c.fails && string(got) == c.want && bytes.Contains(output, []byte(c.says)) {
					return
				}
				if stall < 100*time.Millisecond || try == mostRuns {
					t.Fatalf("ended with %v, and ran\n%s\nwant failure %t, and\n%s\noutput with %q:\n%s", err, got, c.fails, c.want, c.says, output)
				}
				t.Logf("this machine itself stood still for %s: once more", stall)
			}
		})
	}
}
