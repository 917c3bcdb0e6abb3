package hooks

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

func TestMain(m *testing.M) { nodetest.Main(m, map[string]func([]string){"server": server}) }

// server is a program with endpoints for hooks, on its pod's loopback address.
func server([]string) {
	http.HandleFunc("POST /quiet", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "all is written") })
	http.HandleFunc("POST /broken", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the disk is full", http.StatusInsufficientStorage)
	})
	http.HandleFunc("POST /slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	fmt.Println("ready")
	fmt.Println("error", http.ListenAndServe("127.0.0.1:8080", nil))
}

// TestCall calls hooks in a container of stock runc.
func TestCall(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	pod := nodetest.NewPod(t, "web", "1")
	c := pod.NewContainer(t, "c1", "main", nodetest.Spec{Args: []string{"server"}})
	c.Start(t)
	c.Output.WaitFor(t, "ready")
	caller := Caller{Host: criu.Host{ProcRoot: "/proc", Root: "/"}, Folder: t.TempDir()}
	in := Container{Name: "main", ID: c.ID, RuncRoot: nodetest.RuncRoot, Pid: c.Pid(t)}
	for name, tc := range map[string]struct {
		hook      string
		succeeds  bool
		output    string // is contained
		noLonger  time.Duration
		wholeSize int
	}{
		"command":                   {hook: `exec ["sh", "-c", "echo $HOSTNAME"]`, succeeds: true, output: "web"},
		"command that complains":    {hook: `exec ["sh", "-c", "echo two >&2"]`, succeeds: true, output: "two"},
		"command that fails":        {hook: `exec ["sh", "-c", "echo no; exit 3"]`, output: "no"},
		"command that is not there": {hook: `exec /no/such/thing`, output: "no such file"},
		"much output":               {hook: `exec ["sh", "-c", "yes | head -c 100000; echo end"]`, succeeds: true, output: "end", wholeSize: kept},
		"command without end":       {hook: `timeout=300ms exec ["sh", "-c", "echo $$; exec sleep 4711"]`, output: "its timeout of 300ms", noLonger: 5 * time.Second},
		"request":                   {hook: "http 8080/quiet", succeeds: true, output: "all is written"},
		"request that fails":        {hook: "http 8080/broken", output: "507 Insufficient Storage: the disk is full"},
		"request to nobody":         {hook: "http 8081/quiet", output: "connection refused"},
		"request without end":       {hook: "timeout=300ms http 8080/slow", output: "its timeout of 300ms", noLonger: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			hook, ok := v1alpha1.ParseHook(tc.hook)
			if !ok {
				t.Fatal("no hook")
			}
			began := time.Now()
			result := caller.Call(t.Context(), "pre-checkpoint", hook, in)
			if result.Succeeded != tc.succeeds || !strings.Contains(result.Output, tc.output) || len(result.Output) > kept {
				t.Errorf("it ended so: %+v", result)
			}
			if tc.wholeSize > 0 && len(result.Output) < tc.wholeSize-10 {
				t.Errorf("%d bytes of its output are kept", len(result.Output))
			}
			if took := time.Since(began); tc.noLonger > 0 && took > tc.noLonger {
				t.Errorf("it took %s", took)
			}
		})
	}
	nodetest.Eventually(t, 5*time.Second, "the command without end has ended", func() bool {
		found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range found {
			if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), "4711") {
				return false
			}
		}
		return true
	})
}

func TestTail(t *testing.T) {
	var output tail
	for range 3000 {
		fmt.Fprint(&output, "ü\x00")
	}
	if text := output.String(); len(text) > kept || strings.ContainsAny(text, "\x00") || strings.Trim(text, "ü") != "" {
		t.Errorf("the end is %d bytes: %.20q", len(text), text)
	}
}
