package controlplane

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// shownLines is how much of a program's output a failed test shows.
const shownLines = 60

// A Program runs until its test ends.
type Program struct{ *exec.Cmd }

// StartProgram runs a program until the test ends, with the environment besides the
// test's own, and shows the end of its output when the test has failed.
func StartProgram(t T, environment []string, program string, arguments ...string) *Program {
	t.Helper()
	output, err := os.Create(filepath.Join(t.TempDir(), filepath.Base(program)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program, arguments...)
	command.Env = append(os.Environ(), environment...)
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	ended := make(chan struct{})
	go func() {
		// Pdeathsig follows the thread that starts the program, so it must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- command.Start()
		<-ended
	}()
	if err := <-started; err != nil {
		close(ended)
		t.Fatalf("start %s: %v", program, err)
	}
	t.Cleanup(func() {
		_ = command.Wait() // the end of the test's context has killed it
		close(ended)
		_ = output.Close()
		if t.Failed() {
			content, _ := os.ReadFile(output.Name())
			lines := strings.Split(string(content), "\n")
			t.Logf("end of the output of %s %s:\n%s", filepath.Base(program), strings.Join(environment, " "),
				strings.Join(lines[max(0, len(lines)-shownLines):], "\n"))
		}
	})
	return &Program{command}
}

// Signal sends the program a signal.
func (p *Program) Signal(t T, signal syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}
