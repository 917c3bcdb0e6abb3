package fence

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence/fencetest"
)

// TestBrakeStopsPodsByItself: the fencer's passes hang, and so does its log. The
// pods stand still all the same, and the next fencer knows who stopped them.
func TestBrakeStopsPodsByItself(t *testing.T) {
	n := newNode(t)
	ledger, err := openLedger(filepath.Join(n.folder, ledgerFile), thisBoot)
	if err != nil {
		t.Fatal(err)
	}
	stuck := make(chan struct{})
	defer close(stuck)
	log, _ := neverWait(t.Context(), slog.New(stuckHandler{slog.DiscardHandler, stuck}))
	b := &brake{ledger: ledger, log: log, metrics: newMetrics(prometheus.NewRegistry())}
	first, second := fencetest.Start(t, 1), fencetest.Start(t, 1)
	b.targets.Store(&[]*pod{{name: "first", group: first.Group}, {name: "second", group: second.Group}})
	b.until.Store(int64(Now().Add(300 * time.Millisecond)))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { b.watch(ctx); close(ended) }()
	defer func() { cancel(); <-ended }()

	n.eventually("both have taken steps", func() bool { return first.Steps() > 0 && second.Steps() > 0 })
	n.within(300*time.Millisecond+margin, "both stopped", func() bool { return first.Frozen() && second.Frozen() })
	if b.permitted() {
		t.Error("stopped while they were permitted")
	}
	n.eventually("it is noted who stopped them", func() bool {
		saved, err := openLedger(filepath.Join(n.folder, ledgerFile), thisBoot)
		return err == nil && len(saved.paths()) == 2
	})
}

// stuckHandler is a log that nobody reads.
type stuckHandler struct {
	slog.Handler
	stuck <-chan struct{}
}

func (h stuckHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h stuckHandler) Handle(context.Context, slog.Record) error { <-h.stuck; return nil }

// TestLogNeverWaits: with nobody reading, lines are dropped, and that is told later.
func TestLogNeverWaits(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	stuck, lines := make(chan struct{}), make(chan string, 3*linesAhead)
	log, done := neverWait(ctx, slog.New(recordingHandler{slog.DiscardHandler, stuck, lines}))
	for range 2 * linesAhead {
		log.With("node", "n1").Info("line")
	}
	close(stuck)
	cancel()
	<-done
	close(lines)
	got, told := 0, false
	for line := range lines {
		got++
		told = told || line != "line"
	}
	if got < linesAhead || got >= 2*linesAhead {
		t.Errorf("%d of %d lines were written with nobody reading", got, 2*linesAhead)
	}
	if !told {
		t.Error("nothing tells that lines were dropped")
	}
}

type recordingHandler struct {
	slog.Handler
	stuck <-chan struct{}
	lines chan<- string
}

func (h recordingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h recordingHandler) Handle(_ context.Context, r slog.Record) error {
	<-h.stuck
	h.lines <- r.Message
	return nil
}

func (h recordingHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// processVariable makes this program a fencer, of a processConfig as JSON.
const processVariable = "LIFEBOAT_TEST_FENCER"

type processConfig struct{ API, Folder string }

// TestFencerProcess is the fencer's process of TestStallStopsPodsFirst.
func TestFencerProcess(t *testing.T) {
	var c processConfig
	if os.Getenv(processVariable) == "" {
		t.Skip("it is run by TestStallStopsPodsFirst")
	}
	if err := json.Unmarshal([]byte(os.Getenv(processVariable)), &c); err != nil {
		t.Fatal(err)
	}
	err := Run(context.Background(), Config{
		NodeName: "n1", Terms: quick, Folder: c.Folder, CgroupRoot: cgroupRoot, BootID: thisBoot,
		MetricsPort: freePort(t), VoucherPort: freePort(t),
	}, &rest.Config{Host: c.API}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	t.Fatal(err)
}

// TestStallStopsPodsFirst: the whole fencer stands still for longer than its
// permission, and goes on. Before it says a word to anybody its pods are stopped.
func TestStallStopsPodsFirst(t *testing.T) {
	n := newNode(t)
	config, err := json.Marshal(processConfig{API: n.api.URL, Folder: n.folder})
	if err != nil {
		t.Fatal(err)
	}
	process := exec.Command(os.Args[0], "-test.run=^TestFencerProcess$")
	process.Env = append(os.Environ(), processVariable+"="+string(config))
	process.Stderr = t.Output()
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	pods := []*fencetest.Pod{n.runPod(1), n.runPod(1), n.runPod(1)}
	ordered := func() bool { return pods[0].Ordered() && pods[1].Ordered() && pods[2].Ordered() }
	n.eventually("permitted", func() bool { return n.permitted() && n.state().Epoch == 1 })
	n.eventually("they run", func() bool { return pods[0].Steps() > 0 && !pods[0].Frozen() })

	signal := func(s syscall.Signal) {
		if err := process.Process.Signal(s); err != nil {
			t.Error(err)
		}
	}
	for range 3 {
		// It is stopped while it waits for an answer: then no other question is under way.
		stopped := make(chan bool)
		var once sync.Once
		n.api.setWatch(func() { once.Do(func() { signal(syscall.SIGSTOP); close(stopped) }) })
		<-stopped
		// The answer that it waited for would have permitted a little more.
		n.eventually("the permission is out", func() bool { return Now() > n.state().PermittedUntil.Add(2*quick.ReadEvery) })
		if pods[0].Ordered() {
			t.Fatal("the pods stand still with nobody there to stop them")
		}
		asked := make(chan bool, 1)
		n.api.setWatch(func() {
			select {
			case asked <- ordered():
			default:
			}
		})
		signal(syscall.SIGCONT)
		select {
		case stopped := <-asked:
			if !stopped {
				t.Error("the fencer asked for its record while its pods ran without permission")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the fencer does not go on")
		}
		n.api.setWatch(nil)
		n.eventually("they run again", func() bool {
			return n.permitted() && !pods[0].Ordered() && !pods[1].Ordered() && !pods[2].Ordered()
		})
	}
	if got := n.api.spec("n1").State; got != v1alpha1.FenceRunning {
		t.Errorf("the record says %s", got)
	}
}
