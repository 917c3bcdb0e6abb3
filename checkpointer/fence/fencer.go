package fence

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// passEvery is how often the fencer looks at its permission and at the
// registered containers: permission.Terms.Look.
const passEvery = 50 * time.Millisecond

// Config says which node is fenced. Every field but NodeName has a default.
type Config struct {
	// NodeName is the name of the node and of its Fence object.
	NodeName string
	// Terms are permission.Default unless set.
	Terms permission.Terms
	// Folder is client.Folder unless set.
	Folder string
	// CgroupRoot is where the node's cgroup file systems are, by default as a
	// pod in the node's pid namespace sees them.
	CgroupRoot string
	// BootID is the node's boot, read from the node unless set.
	BootID string
	// MetricsPort is where the metrics are served, permission.FencerPort unless set.
	MetricsPort int
	// VoucherPort is where peers and the watcher are answered, permission.VoucherPort
	// unless set.
	VoucherPort int
}

// fencer keeps protected pods from running on its node without permission.
type fencer struct {
	config   Config
	log      *slog.Logger
	metrics  *metrics
	records  *records
	permit   *Permit
	vouching *Vouching
	// neighbours are the other nodes, to be asked.
	neighbours *neighbours
	brake      *brake
	enforcer   *enforcer

	published State
	oldest    int64    // what the last pass returned
	seen      string   // the last result of a read, so as to log changes
	recorded  []string // the peers in the record
	lastPass  Instant
	vouched   bool // the last poll's result, so as to log changes
}

// newFencer returns a fencer that goes on where an earlier one of the same boot
// stopped. Config is complete.
func newFencer(config Config, api *rest.Config, metrics *metrics, log *slog.Logger) (*fencer, error) {
	if err := os.MkdirAll(config.Folder, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder that the fencer shares with the runtime: %w", err)
	}
	records, err := newRecords(api, config.NodeName, config.BootID, config.Terms.Period)
	if err != nil {
		return nil, err
	}
	f := &fencer{
		config: config, log: log, metrics: metrics, records: records,
		permit:     NewPermit(config.Terms, config.BootID),
		vouching:   NewVouching(config.Terms, Now()),
		neighbours: newNeighbours(config.Folder, log),
	}

	var state State
	if found, err := readJSON(f.path(StateFile), &state); err != nil {
		log.Error("the earlier fencer's state is unreadable: starting without permission", "err", err)
	} else if found && state.BootID == config.BootID {
		// No fencer can have had a permission that ends later than this.
		f.permit.Resume(min(state.PermittedUntil, Now().Add(config.Terms.Period)), state.Epoch)
		f.published = state
	}
	ledger, err := openLedger(f.path(ledgerFile), config.BootID)
	if err != nil {
		log.Error("the earlier fencer's ledger is unreadable: what it froze has to be thawed by hand", "err", err)
	}
	f.brake = &brake{ledger: ledger, log: log, metrics: metrics}
	f.brake.until.Store(int64(f.permit.Until()))
	f.enforcer = &enforcer{
		registry: newRegistry(f.path(filepath.Base(client.ContainersFolder)), config.CgroupRoot, log),
		ledger:   ledger,
		brake:    f.brake,
		log:      log,
		metrics:  metrics,
		orders:   map[string]*order{},
		failed:   map[string]string{},
	}
	return f, nil
}

func (f *fencer) path(name string) string { return filepath.Join(f.config.Folder, name) }

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

// run works until ctx ends. It leaves pods frozen that are frozen then.
func (f *fencer) run(ctx context.Context) {
	var requests sync.WaitGroup
	defer requests.Wait()
	requests.Go(func() { f.brake.watch(ctx) })
	requests.Go(func() { f.neighbours.watch(ctx) })
	ticks := time.NewTicker(passEvery)
	defer ticks.Stop()
	answers, outcomes, polls := make(chan answer), make(chan outcome), make(chan Poll)
	for {
		// What has come in is taken in, and what must stop is stopped, before
		// anything is sent or written: after a stall that is long overdue.
		now := Now()
		d := f.permit.Decide(now, f.oldest)
		f.brake.until.Store(int64(f.permit.Until()))
		if d.Permitted {
			f.publish(now) // before anything is thawed, so that the file is never behind
		}
		f.oldest = f.enforcer.pass(d)
		f.noticeStall(now)
		f.publish(now)
		if d.Read {
			requests.Go(func() { send(ctx, answers, f.read(ctx)) })
		}
		if d.Poll {
			requests.Go(func() { send(ctx, polls, f.poll(ctx, d.Asked)) })
		}
		if d.Write != NoWrite {
			requests.Go(func() { send(ctx, outcomes, f.write(ctx, d)) })
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		case a := <-answers:
			f.answered(a)
		case o := <-outcomes:
			f.written(o)
		case p := <-polls:
			f.polled(p)
		}
	}
}

// noticeStall counts the passes that came later than the terms allow for.
func (f *fencer) noticeStall(now Instant) {
	late := time.Duration(now - f.lastPass)
	if f.lastPass > 0 && late > f.config.Terms.Look+f.config.Terms.Slack {
		f.metrics.stalls.Inc()
		f.log.Warn("the fencer was stalled: give it processor time and memory, or its pods run on without permission", "for", late)
	}
	f.lastPass = now
}

func send[T any](ctx context.Context, to chan<- T, value T) {
	select {
	case to <- value:
	case <-ctx.Done():
	}
}

// read asks for the record. Reads may overlap: a slow answer must not delay the
// next request, and an answer later than a Period after its request permits nothing.
func (f *fencer) read(ctx context.Context) answer {
	ctx, cancel := context.WithTimeout(ctx, f.config.Terms.Period)
	defer cancel()
	started := Now()
	record, err := f.records.read(ctx)
	return answer{Read{Started: started, Record: record}, err}
}

func (f *fencer) write(ctx context.Context, d Decision) outcome {
	ctx, cancel := context.WithTimeout(ctx, f.config.Terms.Period)
	defer cancel()
	won, err := f.records.write(ctx, d)
	return outcome{d, won, err}
}

func (f *fencer) answered(a answer) {
	result := resultError
	if a.err == nil {
		f.permit.Answered(a.Read)
		f.vouching.Read(a.Started)
		result = resultAbsent
		if a.Record != nil {
			result = string(a.Record.State)
			f.recorded = a.Record.Peers
		}
		if wanted := f.neighbours.wanted(f.config.NodeName, f.recorded); wanted != nil {
			f.permit.SetPeers(Now(), wanted)
		}
		f.metrics.peers.Set(float64(len(f.recorded)))
	}
	f.metrics.reads.WithLabelValues(strings.ToLower(result)).Inc()
	if result == f.seen {
		return
	}
	f.seen = result
	switch result {
	case resultError:
		f.log.Warn("the node's fence record cannot be read; protected pods freeze when the permission runs out, unless peers vouch",
			"remaining", f.remaining(Now()), "err", a.err)
	case resultAbsent:
		f.log.Info("the node has no fence record")
	case string(v1alpha1.FenceRunning):
		f.log.Info("the node may run protected pods", "epoch", a.Record.Epoch)
	default:
		f.log.Warn("the node's fence record changed", "state", result, "epoch", a.Record.Epoch)
	}
}

// poll asks the peers whether they cannot read their records either. It ends before
// the next one begins.
func (f *fencer) poll(ctx context.Context, asked []string) Poll {
	ctx, cancel := context.WithTimeout(ctx, f.config.Terms.ReadEvery)
	defer cancel()
	started := Now()
	return Poll{Started: started, Asked: asked, Vouched: f.neighbours.ask(ctx, f.config.NodeName, asked)}
}

func (f *fencer) polled(p Poll) {
	before := f.permit.Until()
	f.permit.Polled(Now(), p)
	vouched := f.permit.Until() > before
	result := resultRefused
	if vouched {
		result = resultVouched
	}
	f.metrics.polls.WithLabelValues(result).Inc()
	if vouched && !f.vouched {
		f.log.Warn("the API has failed for others too: protected pods run on", "asked", len(p.Asked), "vouched", len(p.Vouched))
	}
	if !vouched && f.vouched {
		f.log.Warn("too few peers vouch for the node", "asked", len(p.Asked), "vouched", len(p.Vouched), "remaining", f.remaining(Now()))
	}
	f.vouched = vouched
}

func (f *fencer) written(o outcome) {
	f.permit.Written(Now())
	log := f.log.With("write", o.decision.Write.String(), "epoch", o.decision.KillBelow)
	switch {
	case o.err != nil:
		log.Warn("the node's fence record could not be written", "err", o.err)
	case !o.won:
		log.Info("another write to the node's fence record came first")
	default:
		log.Info("the node's fence record was written")
		if o.decision.Write == Refute {
			f.metrics.refutations.Inc()
		}
	}
}

// remaining is how much longer protected pods may run.
func (f *fencer) remaining(now Instant) time.Duration {
	return time.Duration(max(0, f.permit.Until()-now))
}

// publish writes the state for the container runtime when it has changed.
func (f *fencer) publish(now Instant) {
	f.metrics.remaining.Set(f.remaining(now).Seconds())
	state := State{
		State:          f.permit.State(),
		Epoch:          f.permit.Epoch(),
		PermittedUntil: f.permit.Until(),
		BootID:         f.config.BootID,
	}
	if state == f.published {
		return
	}
	if err := writeJSON(f.path(StateFile), 0o644, state); err != nil {
		// Without the file new containers are registered under an old epoch and
		// are killed, so this is safe, but nothing protected starts.
		f.log.Error("publish the node's fence state", "err", err)
		return
	}
	f.published = state
}
