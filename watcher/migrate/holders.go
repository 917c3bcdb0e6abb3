package migrate

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// holderTimeout is how long one checkpointer may take to say what it holds.
	holderTimeout = 700 * time.Millisecond
	// questionsAtOnce bounds the questions in flight: a lost node may have had
	// many pods, and every other node is asked about each.
	questionsAtOnce = 64
	// answersKept is how long an answer that was got during the wait is used. The
	// pod's node is fenced by then, so nothing newer appears.
	answersKept = 10 * time.Second
	// othersTime is how much longer nodes are waited for that are not expected to hold
	// anything, once those that are have answered.
	othersTime = 100 * time.Millisecond
)

// Sought is a pod whose generations are looked for.
type Sought struct {
	Namespace string
	Pod       types.UID
	// Generation is the newest that was reported, and Nodes those that had it then: they
	// are asked first. A pod's generations stay on the same nodes while these live.
	Generation int64
	Nodes      []string
}

// Holders asks checkpointers which generations they hold. Its methods may be
// called from any goroutine.
type Holders struct {
	tls  *tls.Config
	log  *slog.Logger
	slot chan struct{}
	// held asks one checkpointer what it holds of a pod.
	held func(ctx context.Context, address, namespace string, pod types.UID) ([]*peerv1.Generation, error)

	mu      sync.Mutex
	peers   map[string]*grpc.ClientConn
	answers map[types.UID]kept
}

type kept struct {
	checkpoint *v1alpha1.HeldCheckpoint
	at         time.Time
}

// NewHolders returns a Holders that reaches checkpointers with the given
// configuration, identity.Authority.ClientTLS.
func NewHolders(config *tls.Config, log *slog.Logger) *Holders {
	h := &Holders{tls: config, log: log, slot: make(chan struct{}, questionsAtOnce),
		peers: map[string]*grpc.ClientConn{}, answers: map[types.UID]kept{}}
	h.held = h.ask
	return h
}

// Close closes all connections.
func (h *Holders) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, conn := range h.peers {
		conn.Close()
	}
	clear(h.peers)
}

// Newest returns the newest generation of a pod and the nodes that hold it, or nil
// when none was reported. It asks every node of the fences that may run pods, all
// at once, unless Keep has just done so. A node that does not answer in time is
// passed over; so are those that were not expected to hold anything, soon after the
// others have shown what was reported or newer.
func (h *Holders) Newest(ctx context.Context, sought Sought, fences []v1alpha1.Fence) *v1alpha1.HeldCheckpoint {
	h.mu.Lock()
	answer, ok := h.answers[sought.Pod]
	h.mu.Unlock()
	if ok && time.Since(answer.at) <= answersKept {
		return answer.checkpoint.DeepCopy()
	}
	newest, _ := h.askAll(ctx, sought, fences)
	return newest
}

// Of returns one generation of a pod and the nodes that hold it, or nil when none was
// reported, and the numbers of all that were. Number 0 is the newest. It waits for every
// node that answers in time.
func (h *Holders) Of(ctx context.Context, sought Sought, number int64, fences []v1alpha1.Fence) (held *v1alpha1.HeldCheckpoint, known []int64) {
	sought.Generation = 0 // no answer is enough
	answers, _ := h.answersOf(ctx, sought, fences)
	for i := range answers {
		for _, g := range answers[i].generations {
			if !slices.Contains(known, g.Number) {
				known = append(known, g.Number)
			}
		}
		if number != 0 {
			answers[i].generations = slices.DeleteFunc(answers[i].generations, func(g *peerv1.Generation) bool { return g.Number != number })
		}
	}
	return newestOf(answers), known
}

// Keep asks as Newest does, and keeps the answer for it. An answer that there is
// nothing is kept only when every node gave it.
func (h *Holders) Keep(ctx context.Context, sought Sought, fences []v1alpha1.Fence) {
	newest, all := h.askAll(ctx, sought, fences)
	h.mu.Lock()
	defer h.mu.Unlock()
	for uid, old := range h.answers {
		if time.Since(old.at) > answersKept {
			delete(h.answers, uid)
		}
	}
	if newest != nil || all {
		h.answers[sought.Pod] = kept{newest, time.Now()}
	}
}

// report is what one node says that it holds, nil generations when it does not answer.
type report struct {
	node        string
	generations []*peerv1.Generation
	err         error
}

// askAll asks every node what is newest, and says whether all of them answered.
func (h *Holders) askAll(ctx context.Context, sought Sought, fences []v1alpha1.Fence) (newest *v1alpha1.HeldCheckpoint, all bool) {
	answers, all := h.answersOf(ctx, sought, fences)
	return newestOf(answers), all
}

// answersOf asks every node, those first that are expected to hold something, and says
// whether all of them answered.
func (h *Holders) answersOf(ctx context.Context, sought Sought, fences []v1alpha1.Fence) (answers []report, all bool) {
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	reports := make(chan report, len(fences))
	expected, asked := map[string]bool{}, 0
	for _, fence := range fences {
		address := fence.Status.Facts.PeerAddress
		if fence.Spec.State != v1alpha1.FenceRunning || address == "" {
			continue
		}
		asked++
		first := slices.Contains(sought.Nodes, fence.Name)
		if first {
			expected[fence.Name] = true
		}
		go func() {
			r := report{node: fence.Name}
			r.generations, r.err = h.askInTurn(ctx, first, address, sought)
			reports <- r
		}()
	}

	var others <-chan time.Time // nil until those that were expected have shown what they hold
	for range asked {
		select {
		case r := <-reports:
			delete(expected, r.node)
			if r.err != nil {
				h.log.Info("a node does not say what it holds", "node", r.node, "error", r.err)
			} else {
				answers = append(answers, r)
			}
		case <-others:
			return answers, false
		}
		if others != nil || len(expected) > 0 || sought.Generation == 0 {
			continue
		}
		if newest := newestOf(answers); newest != nil && newest.Generation >= sought.Generation {
			others = time.After(othersTime)
		}
	}
	return answers, len(answers) == asked
}

// askInTurn asks a node. Those that come first do not wait for a slot.
func (h *Holders) askInTurn(ctx context.Context, first bool, address string, sought Sought) ([]*peerv1.Generation, error) {
	if !first {
		select {
		case h.slot <- struct{}{}:
			defer func() { <-h.slot }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return h.held(ctx, address, sought.Namespace, sought.Pod)
}

// newestOf is the newest generation that nodes hold, nil when they hold none.
func newestOf(reports []report) *v1alpha1.HeldCheckpoint {
	var newest *v1alpha1.HeldCheckpoint
	for _, report := range reports {
		for _, g := range report.generations {
			switch {
			case newest == nil || g.Number > newest.Generation:
				newest = &v1alpha1.HeldCheckpoint{Generation: g.Number, Bytes: g.Bytes,
					TakenAt: metav1.NewMicroTime(g.TakenAt.AsTime()), Holders: []string{report.node}}
			case g.Number == newest.Generation:
				newest.Holders = append(newest.Holders, report.node)
			}
		}
	}
	if newest != nil {
		slices.Sort(newest.Holders)
	}
	return newest
}

func (h *Holders) ask(ctx context.Context, address, namespace string, pod types.UID) ([]*peerv1.Generation, error) {
	conn, err := h.peer(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, holderTimeout)
	defer cancel()
	response, err := peerv1.NewPeerClient(conn).Held(ctx, &peerv1.HeldRequest{
		Pod: &peerv1.PodKey{Namespace: namespace, PodUid: string(pod)},
	}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", address, err)
	}
	return response.Generations, nil
}

func (h *Holders) peer(address string) (*grpc.ClientConn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if conn, ok := h.peers[address]; ok {
		return conn, nil
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(h.tls)),
		grpc.WithIdleTimeout(time.Minute),
		// A node that was away is to be asked again soon, not after minutes.
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: holderTimeout, Backoff: backoff.Config{
			BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}}))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	h.peers[address] = conn
	return conn, nil
}
