package load

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Service is an application as its clients see it.
type Service interface {
	// Read asks for something small.
	Read(ctx context.Context) error
	// Add adds one to what the application has counted for a key.
	Add(ctx context.Context, key string) error
}

// Work is what clients do.
type Work struct {
	// ReadEvery is the time between two reads. They are sent whether or not those before
	// were answered, so that the first answer after a silence comes at once.
	ReadEvery time.Duration
	// Writers is how many clients write, and WriteEvery the time between two writes of
	// one. A write that fails is sent again, as the client cannot know what became of it.
	Writers    int
	WriteEvery time.Duration
	// Timeout is how long a request may take, RetryEvery the time until the next attempt.
	Timeout, RetryEvery time.Duration
}

// Usual is what clients do in the experiments: 200 reads a second.
var Usual = Work{ReadEvery: 5 * time.Millisecond, Timeout: 250 * time.Millisecond, RetryEvery: 20 * time.Millisecond}

// Writing is Usual with 200 writes a second.
func Writing() Work {
	work := Usual
	work.Writers, work.WriteEvery = 10, 50*time.Millisecond
	return work
}

// Clients work with a service until they are stopped.
type Clients struct {
	work    Work
	service Service
	log     Log
	stop    context.CancelFunc
	// requests ends, when the clients are stopped, only once each has had its time.
	requests context.Context
	end      context.CancelFunc
	group    sync.WaitGroup
}

// Start sends clients to a service.
func Start(ctx context.Context, service Service, work Work) *Clients {
	c := &Clients{work: work, service: service}
	c.requests, c.end = context.WithCancel(ctx)
	running, stop := context.WithCancel(ctx)
	c.stop = stop
	c.group.Go(func() { c.read(running) })
	for n := range work.Writers {
		c.group.Go(func() { c.write(running, n) })
	}
	return c
}

// Stop stops the clients, and returns all their requests.
func (c *Clients) Stop() []Request {
	c.stop()
	c.group.Wait()
	c.end()
	return c.log.Requests()
}

// Requests are those that have ended by now.
func (c *Clients) Requests() []Request { return c.log.Requests() }

// read sends reads at a steady pace.
func (c *Clients) read(ctx context.Context) {
	// More can be under way only when the machine is too busy to end them in time.
	under := make(chan struct{}, 2*max(1, int(c.work.Timeout/c.work.ReadEvery)))
	ticker := time.NewTicker(c.work.ReadEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		select {
		case under <- struct{}{}:
		default:
			continue
		}
		c.group.Go(func() {
			defer func() { <-under }()
			_ = c.request("", 0, c.service.Read) // it is in the log
		})
	}
}

// write sends one write after another, each until it is acknowledged.
func (c *Clients) write(ctx context.Context, writer int) {
	// Apart from each other, as clients are.
	if !wait(ctx, c.work.WriteEvery*time.Duration(writer)/time.Duration(c.work.Writers)) {
		return
	}
	next := time.Now()
	for number := 1; ; number++ {
		key := fmt.Sprintf("w%d-%d", writer, number)
		for attempt := 1; ; attempt++ {
			if c.request(key, attempt, func(ctx context.Context) error { return c.service.Add(ctx, key) }) == nil {
				break
			}
			if !wait(ctx, c.work.RetryEvery) {
				return
			}
		}
		// What was missed while nobody answered is not made up for.
		if next = next.Add(c.work.WriteEvery); next.Before(time.Now()) {
			next = time.Now()
		}
		if !wait(ctx, time.Until(next)) {
			return
		}
	}
}

// request sends a request and logs how it ended.
func (c *Clients) request(key string, attempt int, send func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(c.requests, c.work.Timeout)
	defer cancel()
	r := Request{Sequence: c.log.begin(), Key: key, Attempt: attempt, Start: time.Now()}
	err := send(ctx)
	r.End = time.Now()
	if err != nil {
		r.Error = err.Error()
	}
	c.log.end(r)
	return err
}

// wait waits, and says whether ctx goes on.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
