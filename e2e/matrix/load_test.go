package matrix

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// stepEvery is the time between two requests of a load.
	stepEvery = 20 * time.Millisecond
	// idleClients is how many clients beside the one at work are connected.
	idleClients = 3
	// newClients is how many come at once after a restore.
	newClients = 8
)

// load is a client that works without end on one connection, beside others that
// are just connected.
type load struct {
	sessions []session // the first one works
	stop     context.CancelFunc
	done     chan struct{}

	mu   sync.Mutex
	acks []ack
	err  error
}

// ack is what the program had counted in an answer.
type ack struct {
	at      time.Time
	numbers []int64
}

// startLoad begins to work with a program.
func startLoad(ctx context.Context, s *subject) (_ *load, err error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{stop: cancel, done: make(chan struct{})}
	defer func() {
		if err != nil {
			cancel()
			l.close()
		}
	}()
	for range idleClients + 1 {
		session, err := s.open(ctx, s)
		if err != nil {
			return nil, err
		}
		l.sessions = append(l.sessions, session)
		if err := session.ping(); err != nil {
			return nil, err
		}
	}
	go l.run(ctx, l.sessions[0])
	return l, nil
}

func (l *load) run(ctx context.Context, session session) {
	defer close(l.done)
	ticker := time.NewTicker(stepEvery)
	defer ticker.Stop()
	for {
		numbers, err := session.step()
		l.mu.Lock()
		if err == nil {
			l.acks = append(l.acks, ack{time.Now(), numbers})
		}
		l.err = err
		l.mu.Unlock()
		if err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// failure is what has ended the load, or nil while it works.
func (l *load) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// idleFailure asks for a sign of life on the connections that are not at work.
func (l *load) idleFailure() error {
	for _, session := range l.sessions[1:] {
		if err := session.ping(); err != nil {
			return err
		}
	}
	return nil
}

// end stops the load and returns all its acknowledgements.
func (l *load) end() []ack {
	l.stop()
	<-l.done
	l.close()
	return l.acks
}

// close closes all connections, whose other ends may be gone.
func (l *load) close() {
	for _, session := range l.sessions {
		session.Close()
	}
}

// around returns the highest value of a number that was acknowledged before the
// moment, and the first one that was acknowledged later, if there is one.
func around(acks []ack, number int, moment time.Time) (before, after int64, known bool) {
	i, _ := slices.BinarySearchFunc(acks, moment, func(a ack, t time.Time) int { return a.at.Compare(t) })
	if i > 0 {
		before = acks[i-1].numbers[number]
	}
	if i == len(acks) {
		return before, 0, false
	}
	return before, acks[i].numbers[number], true
}
