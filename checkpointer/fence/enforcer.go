package fence

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
)

// orderTime bounds one attempt to thaw or to kill a pod; the next pass tries again.
const orderTime = 5 * time.Second

// enforcer makes the cgroups of the registered pods follow the permit. Each
// pass looks at what is and starts what is missing, so that it does not matter
// what happened before it, or to which fencer.
type enforcer struct {
	registry *registry
	ledger   *ledger
	brake    *brake
	log      *slog.Logger
	metrics  *metrics

	complaint string // the last error of the registry, so as to log it once

	mu     sync.Mutex
	orders map[string]*order // under way, by the path of the cgroup
	failed map[string]string // the last failed order's error, so as to log it once
	// running are the orders, for who has to wait for their end.
	running sync.WaitGroup
}

// order is one freeze, thaw or kill under way.
type order struct {
	freeze bool
	cancel context.CancelFunc
}

// pass starts what d asks for and returns the lowest epoch of any container
// that has, or may have, processes: NoContainer where there is none. When it
// returns, every pod that may not run has been ordered to stop; it does not wait
// for more.
func (e *enforcer) pass(d Decision) (oldest int64) {
	pods, err := e.registry.pods()
	e.complain(err)
	oldest = NoContainer
	if err != nil {
		// What cannot be read may be of any epoch.
		oldest = 0
	}
	condemned := map[string]bool{}
	if !d.Permitted {
		// Before anything else, the dead of older epochs as well.
		e.brake.stop(values(pods), true)
	}
	e.brake.targets.Store(new(values(pods)))
	for path, pod := range pods {
		old := false
		for _, c := range pod.containers {
			if c.epoch < d.KillBelow {
				if runs, err := c.runs(); err == nil && !runs {
					continue
				}
				old = true
			}
			oldest = min(oldest, c.epoch)
		}
		switch {
		case old:
			condemned[path] = true
			e.kill(pod)
		case !d.Permitted:
			e.freeze(pod)
		}
	}
	if d.Permitted {
		for _, path := range e.ledger.paths() {
			if !condemned[path] {
				e.thaw(path)
			}
		}
	}
	return oldest
}

// complain logs an error of the registry when it is a new one.
func (e *enforcer) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != e.complaint && text != "" {
		e.log.Error("a registered container cannot be fenced", "err", err)
	}
	e.complaint = text
}

// freeze makes sure that a pod stands still which has been ordered to. An order to
// freeze has no time limit, because giving it up would let the rest of the pod run
// again; only the permission's return or the pod's end cancels it.
func (e *enforcer) freeze(p *pod) {
	if !p.group.Exists() {
		return
	}
	if frozen, err := p.group.Frozen(); err == nil && frozen {
		return
	}
	e.start(p.group, true, context.WithCancel, p.group.Freeze)
}

// thaw lets a pod run that a fencer froze.
func (e *enforcer) thaw(path string) {
	group, err := cgroup.ForPath(e.registry.cgroupRoot, path)
	if err != nil {
		e.log.Error("find a frozen pod's cgroup", "cgroup", path, "err", err)
		return
	}
	e.start(group, false, withOrderTime, func(ctx context.Context) error {
		if !e.brake.permitted() {
			return nil
		}
		// Struck out first: should the permission run out meanwhile, the brake stops
		// the pod and notes it anew, and that note must stay.
		e.ledger.strike(path)
		if err := group.Thaw(ctx); err != nil {
			e.ledger.note(path)
			return err
		}
		e.log.Info("pod thawed: the node is permitted to run it again", "cgroup", path)
		return e.ledger.save()
	})
}

func values(pods map[string]*pod) []*pod { return slices.Collect(maps.Values(pods)) }

// kill ends every process of a pod, its sandbox too: kubelet makes the pod anew
// if it still belongs on the node.
func (e *enforcer) kill(p *pod) {
	e.start(p.group, false, withOrderTime, func(ctx context.Context) error {
		if err := p.group.Kill(ctx); err != nil {
			return err
		}
		e.metrics.kills.Inc()
		e.log.Warn("pod killed: it started before the node was fenced", "pod", p.name)
		e.ledger.strike(p.group.Path())
		return e.ledger.save()
	})
}

func withOrderTime(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, orderTime)
}

// start runs an order unless one for the group is under way. A freeze under way
// gives way to an order of another kind, which a later pass then starts.
//
// No order ends with the fencer's own context: giving up a freeze half way
// thaws, and the end of the fencer is no permission.
func (e *enforcer) start(group cgroup.Group, freeze bool, limit func(context.Context) (context.Context, context.CancelFunc), run func(context.Context) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	path := group.Path()
	if running := e.orders[path]; running != nil {
		if running.freeze && !freeze {
			running.cancel()
		}
		return
	}
	ctx, cancel := limit(context.Background())
	e.orders[path] = &order{freeze: freeze, cancel: cancel}
	e.running.Go(func() {
		defer cancel()
		err := run(ctx)
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.orders, path)
		switch {
		case err == nil || errors.Is(err, context.Canceled):
			delete(e.failed, path)
		case e.failed[path] != err.Error():
			e.failed[path] = err.Error()
			e.log.Error("a pod does not follow the node's permission; trying again", "err", err)
		}
	})
}
