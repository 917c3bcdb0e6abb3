package plugin

import (
	"context"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	// readTimeout bounds one read from the API server.
	readTimeout = 2 * time.Second
	// readInterval is the least time between the starts of two reads of the same
	// subject. All pods that come within it share the next one.
	readInterval = 100 * time.Millisecond
	// retryInterval is the time between two attempts while the API server fails.
	retryInterval = 500 * time.Millisecond
	// readsAtOnce bounds the reads that are under way.
	readsAtOnce = 8
)

// subject is something that can be read from the API server.
type subject struct {
	kind subjectKind
	name string // a namespace or a node, "" for all
}

type subjectKind int

const (
	migrationsOf subjectKind = iota // the Migrations of a namespace
	fenceOf                         // the Fence of a node
	allFences
)

// reads sees to it that what the plugin knows is not older than a given moment. A
// watch may be behind and cannot tell by how much; a read that began after the
// moment is not. Reads are made beside the scheduler's cycles, one at a time for
// a subject, and each serves all who wait for it. It is safe for concurrent use.
type reads struct {
	ctx  context.Context // ends the reads
	read func(ctx context.Context, s subject) error
	done func(s subject) // told of each read that succeeded, and of each first failure
	log  klog.Logger

	slots chan struct{}

	mu    sync.Mutex
	state map[subject]*progress
}

// progress is how far the reads of one subject are.
type progress struct {
	wanted  time.Time // a read that began at or after it is asked for
	newest  time.Time // the start of the newest read that succeeded
	running bool
	err     error // of the newest read
}

func newReads(ctx context.Context, read func(context.Context, subject) error, done func(subject)) *reads {
	return &reads{
		ctx: ctx, read: read, done: done, log: klog.FromContext(ctx),
		slots: make(chan struct{}, readsAtOnce), state: map[subject]*progress{},
	}
}

// since says whether a read that began at or after the moment has succeeded. If
// not, it sees to one, of whose end done is told, and returns the error of the
// newest attempt, if that failed.
func (r *reads) since(s subject, moment time.Time) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.state[s]
	if p == nil {
		p = &progress{}
		r.state[s] = p
	}
	if !p.newest.Before(moment) {
		return true, nil
	}
	if p.wanted.Before(moment) {
		p.wanted = moment
	}
	if !p.running {
		p.running = true
		go r.run(s, p)
	}
	return false, p.err
}

// run reads until nothing newer is asked for.
func (r *reads) run(s subject, p *progress) {
	for {
		began, err := r.once(s)
		r.mu.Lock()
		first := err != nil && p.err == nil
		p.err = err
		if err == nil {
			p.newest = began
		}
		more := p.newest.Before(p.wanted) && r.ctx.Err() == nil
		p.running = more
		r.mu.Unlock()
		if first {
			r.log.Error(err, "What protected pods are placed by cannot be read; they wait", "retryAfter", retryInterval)
		}
		if err == nil || first {
			r.done(s)
		}
		if !more {
			return
		}
		pause := time.Until(began.Add(readInterval))
		if err != nil {
			pause = retryInterval
		}
		select {
		case <-r.ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (r *reads) once(s subject) (began time.Time, err error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-r.ctx.Done():
		return time.Now(), r.ctx.Err()
	}
	ctx, cancel := context.WithTimeout(r.ctx, readTimeout)
	defer cancel()
	began = time.Now()
	return began, r.read(ctx, s)
}
