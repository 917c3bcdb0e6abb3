package decide

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

var update = flag.Bool("update", false, "write the scenarios' outcomes into testdata")

// epoch is when every scenario begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is the machine and what surrounds it: the API's records, the watcher's
// cache of them, and what is known of the nodes.
type world struct {
	machine *Machine
	now     time.Time
	names   []string
	facts   map[string]detect.Fact
	api     map[string]Fence
	cache   map[string]Fence
	pending map[string]Action
	paused  string
}

func newWorld() *world {
	return &world{machine: New(Config{}), now: epoch, facts: map[string]detect.Fact{},
		api: map[string]Fence{}, cache: map[string]Fence{}, pending: map[string]Action{}}
}

// step is one Step of the machine with what it sees.
func (w *world) step() ([]Action, time.Time) {
	var known []Node
	for _, name := range w.names {
		fact := w.facts[name]
		if fact.State == detect.Alive {
			fact.LastAlive = w.now
		}
		w.facts[name] = fact
		known = append(known, Node{Fact: fact, Fence: w.cache[name]})
	}
	actions, wake := w.machine.Step(w.now, View{Nodes: known, Paused: w.paused})
	for _, a := range actions {
		switch a.Kind {
		case DeclareLost, ConfirmFenced, Withdraw:
			w.pending[a.Node] = a
		}
	}
	return actions, wake
}

// written lets a node's pending write succeed in the API.
func (w *world) written(name string) []Action {
	a := w.pending[name]
	delete(w.pending, name)
	state := map[Kind]v1alpha1.FenceState{DeclareLost: v1alpha1.FenceLost,
		ConfirmFenced: v1alpha1.FenceFenced, Withdraw: v1alpha1.FenceRunning}[a.Kind]
	w.api[name] = Fence{State: state, Generation: w.api[name].Generation + 1, BootID: w.api[name].BootID, Peers: w.api[name].Peers}
	return w.machine.Answer(w.now, name, w.api[name], false)
}

// run carries out one line of a scenario.
func (w *world) run(command string, args []string) ([]Action, error) {
	states := map[string]detect.State{"alive": detect.Alive, "suspect": detect.Suspected,
		"dead": detect.Unreachable, "gone": detect.Gone}
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	switch command {
	case "nodes": // nodes that run, with their records
		for _, name := range args {
			w.names = append(w.names, name)
			w.facts[name] = detect.Fact{Node: name, State: detect.Alive, Reason: "alive"}
			w.api[name] = Fence{State: v1alpha1.FenceRunning, Generation: 1, BootID: "boot-1"}
			w.cache[name] = w.api[name]
		}
	case "no-record": // a node that has no record yet
		w.api[name], w.cache[name] = Fence{}, Fence{}
	case "alive", "suspect", "dead", "gone":
		for _, name := range args {
			fact := w.facts[name]
			fact.State, fact.Reason = states[command], command
			w.facts[name] = fact
		}
	case "written": // the pending write succeeded, the cache does not show it yet
		return w.written(name), nil
	case "conflict": // somebody else wrote first; the answer has the record as it is
		delete(w.pending, name)
		return w.machine.Answer(w.now, name, w.api[name], false), nil
	case "failed": // nobody knows whether the write succeeded
		delete(w.pending, name)
		return w.machine.Answer(w.now, name, Fence{}, true), nil
	case "record": // somebody else writes the record; the cache is behind
		w.api[name] = Fence{State: v1alpha1.FenceState(args[1]), Generation: w.api[name].Generation + 1, BootID: w.api[name].BootID, Peers: w.api[name].Peers}
	case "peers": // the node chose its peers
		f := w.api[name]
		f.Peers, f.Generation = args[1:], f.Generation+1
		w.api[name], w.cache[name] = f, f
	case "promise", "unreadable": // a peer's answer
		for _, peer := range args[1:] {
			w.machine.Promised(w.now, Promise{Node: name, Generation: w.api[name].Generation, Peer: peer, Promised: command == "promise", Asked: w.now})
		}
	case "old-promise": // an answer to a question about an earlier declaration
		for _, peer := range args[1:] {
			w.machine.Promised(w.now, Promise{Node: name, Generation: w.api[name].Generation - 2, Peer: peer, Promised: true, Asked: w.now})
		}
	case "unguarded": // the declaration is withdrawn: nothing there stops the pods
		delete(w.pending, name)
		w.machine.Unguarded(name, "its fencer does not answer")
		w.api[name] = Fence{State: v1alpha1.FenceRunning, Generation: w.api[name].Generation + 1, BootID: w.api[name].BootID, Peers: w.api[name].Peers}
		return w.machine.Answer(w.now, name, w.api[name], false), nil
	case "pause": // an operator
		w.paused = strings.Join(args, " ")
	case "resume":
		w.paused = ""
	case "adopt": // the fencer of another boot takes the record over; the cache shows it
		f := w.api[name]
		f.BootID, f.Generation = "boot-2", f.Generation+1
		w.api[name], w.cache[name] = f, f
	case "out-of-service", "in-service": // somebody taints the node, or takes the taint off
		fact := w.facts[name]
		fact.OutOfService = command == "out-of-service"
		w.facts[name] = fact
	case "domain": // a failure domain and its nodes
		for _, name := range args[1:] {
			fact := w.facts[name]
			fact.Domain = args[0]
			w.facts[name] = fact
		}
	case "per-domain": // each failure domain is guarded by itself
		w.machine = New(Config{PerDomain: true})
	case "signal", "no-signal": // the node may go soon
		fact := w.facts[name]
		fact.Signals = nil
		if command == "signal" {
			fact.Signals = []detect.Signal{{Reason: v1alpha1.MigrationReason(args[1]), Message: strings.Join(args[2:], " ")}}
		}
		w.facts[name] = fact
	case "boot": // the kubelet reports the boot that runs
		fact := w.facts[name]
		fact.BootID = "boot-1"
		w.facts[name] = fact
	case "reboot": // the kubelet reports another boot
		fact := w.facts[name]
		fact.BootID = "boot-2"
		w.facts[name] = fact
	case "watch": // the cache catches up
		for _, name := range w.names {
			w.cache[name] = w.api[name]
		}
	case "remove": // the record is deleted
		w.names = slices.DeleteFunc(w.names, func(n string) bool { return n == name })
	case "new-leader": // another watcher takes over and knows nothing but the API
		w.machine = New(Config{})
		w.pending = map[string]Action{}
		for _, name := range w.names {
			w.cache[name] = w.api[name]
		}
	case "step": // only time has passed
	default:
		return nil, fmt.Errorf("unknown command %q", command)
	}
	return nil, nil
}

// TestScenarios plays each file of testdata. A line is a time since the start,
// a command and its arguments; the indented lines below it are what the machine
// does then. Run it with -update to write those.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
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

func play(t *testing.T, scenario string) string {
	var out strings.Builder
	w := newWorld()
	for scan := bufio.NewScanner(strings.NewReader(scenario)); scan.Scan(); {
		line := scan.Text()
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, " "):
			continue // an outcome of before
		case len(fields) == 0, strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
			continue
		}
		since, err := time.ParseDuration(fields[0])
		if err != nil || len(fields) < 2 {
			t.Fatalf("line %q: want a time and a command", line)
		}
		w.now = epoch.Add(since)
		actions, err := w.run(fields[1], fields[2:])
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		more, wake := w.step()
		fmt.Fprintln(&out, line)
		for _, a := range append(actions, more...) {
			fmt.Fprintf(&out, "        %s", a.Kind)
			if a.Node != "" {
				fmt.Fprintf(&out, " %s", a.Node)
			}
			if !a.LostAt.IsZero() {
				fmt.Fprintf(&out, ", lost at %s", a.LostAt.Sub(epoch))
			}
			for _, detail := range []string{string(a.Proof), string(a.Held), string(a.Why), strings.Join(a.Peers, " ")} {
				if detail != "" {
					fmt.Fprintf(&out, ", %s", detail)
				}
			}
			if a.Reason != "" {
				fmt.Fprintf(&out, ": %s", a.Reason)
			}
			fmt.Fprintln(&out)
		}
		if !wake.IsZero() {
			fmt.Fprintf(&out, "        wakes at %s\n", wake.Sub(epoch))
		}
	}
	return out.String()
}
