package fence

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// passEvery is how often the fencer looks at its permission and at the
// registered containers. Together with the time to freeze it must stay well
// inside permission.Terms.Margin.
const passEvery = 50 * time.Millisecond

// Config is what a Fencer needs.
type Config struct {
	// Node is the name of the node and of its Fence object.
	Node string
	// API reaches the Kubernetes API, with leave to get, create and patch
	// Fences.
	API *rest.Config
	// Terms are permission.Default, except in tests.
	Terms permission.Terms
	// Folder is client.Folder, except in tests.
	Folder string
	// CgroupRoot is where the node's cgroup file systems are.
	CgroupRoot string
	// BootID is the node's boot; see the function BootID.
	BootID  string
	Log     *slog.Logger
	Metrics *Metrics
}

// Fencer keeps protected pods from running on its node without permission.
type Fencer struct {
	config   Config
	records  *records
	permit   *Permit
	enforcer *enforcer
	until    atomic.Int64 // permit.Until, for the enforcer's orders

	published State
	oldest    int64  // what the last pass returned
	seen      string // the last result of a read, so as to log changes
}

// New returns a Fencer that goes on where an earlier one of the same boot
// stopped. It fails when the shared folder or the API's configuration is unusable.
func New(config Config) (*Fencer, error) {
	if err := os.MkdirAll(config.Folder, 0o755); err != nil {
		return nil, fmt.Errorf("make the shared folder: %w", err)
	}
	records, err := newRecords(config.API, config.Node, config.BootID, config.Terms.Period)
	if err != nil {
		return nil, err
	}
	config.Log = config.Log.With("node", config.Node)
	f := &Fencer{config: config, records: records, permit: NewPermit(config.Terms, config.BootID)}

	var state State
	if found, err := readJSON(f.path(StateFile), &state); err != nil {
		config.Log.Error("the earlier fencer's state is unreadable: starting without permission", "err", err)
	} else if found && state.BootID == config.BootID {
		// No fencer can have had a permission that ends later than this.
		f.permit.Resume(min(state.PermittedUntil, Now().Add(config.Terms.Period)), state.Epoch)
		f.published = state
	}
	ledger, err := openLedger(f.path(ledgerFile), config.BootID)
	if err != nil {
		config.Log.Error("the earlier fencer's ledger is unreadable: what it froze has to be thawed by hand", "err", err)
	}
	f.enforcer = &enforcer{
		registry:  newRegistry(f.path(filepath.Base(client.ContainersFolder)), config.CgroupRoot, config.Log),
		ledger:    ledger,
		permitted: func() bool { return Now() < Instant(f.until.Load()) },
		log:       config.Log,
		metrics:   config.Metrics,
		orders:    map[string]*order{},
		failed:    map[string]string{},
	}
	return f, nil
}

func (f *Fencer) path(name string) string { return filepath.Join(f.config.Folder, name) }

// answer is how a read ended.
type answer struct {
	Read
	err error
}

// outcome is how a write ended.
type outcome struct {
	decision Decision
	won      bool
	err      error
}

// Run works until ctx ends. It leaves pods frozen that are frozen then.
func (f *Fencer) Run(ctx context.Context) error {
	var requests sync.WaitGroup
	defer requests.Wait()
	ticks := time.NewTicker(passEvery)
	defer ticks.Stop()
	answers, outcomes := make(chan answer), make(chan outcome)
	for {
		now := Now()
		d := f.permit.Decide(now, f.oldest)
		f.until.Store(int64(f.permit.Until()))
		f.oldest = f.enforcer.pass(d)
		f.publish(now)
		if d.Read {
			requests.Go(func() { send(ctx, answers, f.read(ctx)) })
		}
		if d.Write != NoWrite {
			requests.Go(func() { send(ctx, outcomes, f.write(ctx, d)) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		case a := <-answers:
			f.answered(a)
		case o := <-outcomes:
			f.written(o)
		}
	}
}

func send[T any](ctx context.Context, to chan<- T, value T) {
	select {
	case to <- value:
	case <-ctx.Done():
	}
}

// read asks for the record. Reads may overlap: a slow answer must not delay the
// next request, and an answer later than a Period after its request permits nothing.
func (f *Fencer) read(ctx context.Context) answer {
	ctx, cancel := context.WithTimeout(ctx, f.config.Terms.Period)
	defer cancel()
	started := Now()
	record, err := f.records.read(ctx)
	return answer{Read{Started: started, Record: record}, err}
}

func (f *Fencer) write(ctx context.Context, d Decision) outcome {
	ctx, cancel := context.WithTimeout(ctx, f.config.Terms.Period)
	defer cancel()
	won, err := f.records.write(ctx, d)
	return outcome{d, won, err}
}

func (f *Fencer) answered(a answer) {
	result := resultError
	if a.err == nil {
		f.permit.Answered(a.Read)
		result = resultAbsent
		if a.Record != nil {
			result = string(a.Record.State)
		}
	}
	f.config.Metrics.reads.WithLabelValues(strings.ToLower(result)).Inc()
	if result == f.seen {
		return
	}
	f.seen = result
	switch result {
	case resultError:
		f.config.Log.Warn("the node's fence record cannot be read; protected pods freeze when the permission runs out",
			"remaining", f.remaining(Now()), "err", a.err)
	case resultAbsent:
		f.config.Log.Info("the node has no fence record")
	case string(v1alpha1.FenceRunning):
		f.config.Log.Info("the node may run protected pods", "epoch", a.Record.Epoch)
	default:
		f.config.Log.Warn("the node's fence record changed", "state", result, "epoch", a.Record.Epoch)
	}
}

func (f *Fencer) written(o outcome) {
	f.permit.Written(Now())
	log := f.config.Log.With("write", o.decision.Write.String(), "epoch", o.decision.KillBelow)
	switch {
	case o.err != nil:
		log.Warn("the node's fence record could not be written", "err", o.err)
	case !o.won:
		log.Info("another write to the node's fence record came first")
	default:
		log.Info("the node's fence record was written")
		if o.decision.Write == Refute {
			f.config.Metrics.refutations.Inc()
		}
	}
}

// remaining is how much longer protected pods may run.
func (f *Fencer) remaining(now Instant) time.Duration {
	return time.Duration(max(0, f.permit.Until()-now))
}

// publish writes the state for the container runtime when it has changed.
func (f *Fencer) publish(now Instant) {
	f.config.Metrics.remaining.Set(f.remaining(now).Seconds())
	state := State{
		State:          f.permit.State(),
		Epoch:          f.permit.Epoch(),
		PermittedUntil: f.permit.Until(),
		BootID:         f.config.BootID,
	}
	if state == f.published {
		return
	}
	if err := writeJSON(f.path(StateFile), state); err != nil {
		// Without the file new containers are registered under an old epoch and
		// are killed, so this is safe, but nothing protected starts.
		f.config.Log.Error("publish the node's fence state", "err", err)
		return
	}
	f.published = state
}
