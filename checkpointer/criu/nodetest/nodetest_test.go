package nodetest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestNodeHasWorkingPrograms(t *testing.T) {
	if !Inside(t) {
		return
	}
	for _, command := range []string{"criu --version", "criu check", "runc --version"} {
		words := strings.Fields(command)
		output, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", command, err, output)
		}
	}
	if entries, _ := os.ReadDir("/proc"); os.Getpid() > 1000 || len(entries) == 0 {
		t.Errorf("the test is process %d: not in a pid namespace of its own", os.Getpid())
	}
}
