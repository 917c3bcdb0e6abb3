package migrate

import (
	"context"
	"time"

	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

// lookEvery is how often everything is looked at even if nothing was reported:
// silence makes no event.
const lookEvery = 500 * time.Millisecond

// loop drives a decide.Machine: it feeds it what is known, carries out what it
// decides, and returns the answers.
type loop struct {
	machine *decide.Machine
	// known is everything that is known just now.
	known func() decide.View
	// write carries out an action that writes a fence record. It is called in a
	// goroutine of its own.
	write func(context.Context, decide.Action) answer
	// ask asks one peer of a lost node for a promise, in a goroutine of its own, and
	// returns false if there was no answer.
	ask func(ctx context.Context, action decide.Action, peer string) (promised, answered bool)
	// tell carries out the other actions. It must not block.
	tell func(decide.Action)
	// changed receives when known may have changed.
	changed <-chan struct{}
}

// answer is what became of a write.
type answer struct {
	node string
	// fence is the record as it is afterwards.
	fence decide.Fence
	// unguarded says why the declaration was withdrawn instead of confirmed: nothing
	// on the node stops its pods. Else it is empty.
	unguarded string
	err       error
	// at is when the answer came: the wait counts from it.
	at time.Time
}

// run decides until ctx ends.
func (l *loop) run(ctx context.Context) {
	answers := make(chan answer)
	promises := make(chan decide.Promise)
	carryOut := func(actions []decide.Action) {
		for _, action := range actions {
			switch action.Kind {
			case decide.DeclareLost, decide.ConfirmFenced, decide.Withdraw:
				go func() {
					a := l.write(ctx, action)
					a.node, a.at = action.Node, time.Now()
					send(ctx, answers, a)
				}()
			case decide.AskPeers:
				for _, peer := range action.Peers {
					go l.askPeer(ctx, action, peer, promises)
				}
			default:
				l.tell(action)
			}
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		actions, wake := l.machine.Step(time.Now(), l.known())
		carryOut(actions)
		next := lookEvery
		if !wake.IsZero() {
			next = min(next, time.Until(wake))
		}
		timer.Reset(max(0, next))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-l.changed:
		case p := <-promises:
			l.machine.Promised(time.Now(), p)
		case a := <-answers:
			if a.unguarded != "" {
				l.machine.Unguarded(a.node, a.unguarded)
			}
			carryOut(l.machine.Answer(a.at, a.node, a.fence, a.err != nil))
		}
	}
}

func (l *loop) askPeer(ctx context.Context, action decide.Action, peer string, to chan<- decide.Promise) {
	p := decide.Promise{Node: action.Node, Generation: action.Generation, Peer: peer, Asked: time.Now()}
	var answered bool
	if p.Promised, answered = l.ask(ctx, action, peer); answered {
		send(ctx, to, p)
	}
}

func send[T any](ctx context.Context, to chan<- T, value T) {
	select {
	case to <- value:
	case <-ctx.Done():
	}
}
