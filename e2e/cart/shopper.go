package cart

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Write is an item that the service has acknowledged.
type Write struct {
	SKU string `json:"sku"`
	// SentAt and AckedAt enclose the moment at which the service took it.
	SentAt  time.Time `json:"sentAt"`
	AckedAt time.Time `json:"ackedAt"`
	Life
}

// Outage is an interval in which the service answered nothing, though asked.
type Outage struct {
	// LastSuccess is the last answer before it.
	LastSuccess time.Time `json:"lastSuccess"`
	// FirstSuccess is the first answer after it; zero while it lasts.
	FirstSuccess time.Time `json:"firstSuccess,omitzero"`
	// Failures is how many requests failed in it.
	Failures int `json:"failures"`
	// Error is what the first of them met.
	Error string `json:"error"`
}

// Over says whether the service has answered again.
func (o Outage) Over() bool { return !o.FirstSuccess.IsZero() }

// Length is the time between the two answers around the outage; 0 while it lasts.
func (o Outage) Length() time.Duration {
	if !o.Over() {
		return 0
	}
	return o.FirstSuccess.Sub(o.LastSuccess)
}

// Seen is one process of the service that has answered.
type Seen struct {
	Birth string    `json:"birth"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Status is what a shopper has noted, without the list of writes.
type Status struct {
	// Cart is the cart that the shopper fills.
	Cart     string `json:"cart"`
	Attempts int    `json:"attempts"`
	Acked    int    `json:"acked"`
	// Last is the last write that was acknowledged.
	Last    Write    `json:"last"`
	Outages []Outage `json:"outages"`
	// Standstill is the longest time between two answers in a row, and StandstillAt
	// when it ended.
	Standstill   time.Duration `json:"standstill"`
	StandstillAt time.Time     `json:"standstillAt,omitzero"`
	// Births are the processes that have answered, in order of their first answer.
	Births []Seen `json:"births"`
}

// Down says whether the last request failed.
func (s Status) Down() bool {
	return len(s.Outages) > 0 && !s.Outages[len(s.Outages)-1].Over()
}

// Around returns the outage that contains the moment, or was the first to end after it.
func (s Status) Around(moment time.Time) (Outage, bool) {
	for _, o := range s.Outages {
		if o.Over() && o.FirstSuccess.After(moment) {
			return o, true
		}
	}
	return Outage{}, false
}

// Report is everything that a shopper has noted.
type Report struct {
	Status
	// Writes are all acknowledged writes, in order.
	Writes []Write `json:"writes"`
}

// Shopper puts items into one cart without end. Each item has a SKU of its own
// and is sent once, so that every acknowledged write can be looked for later.
type Shopper struct {
	// Service is the cart service.
	Service Client
	// Cart is the cart to fill.
	Cart string
	// Every is the pause between two requests, Timeout what one request may take.
	Every, Timeout time.Duration

	mu     sync.Mutex
	report Report
}

// Run shops until ctx ends.
func (s *Shopper) Run(ctx context.Context) {
	for number := 1; ctx.Err() == nil; number++ {
		s.shop(ctx, fmt.Sprintf("item-%07d", number))
		select {
		case <-ctx.Done():
		case <-time.After(s.Every):
		}
	}
}

func (s *Shopper) shop(ctx context.Context, sku string) {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	sent := time.Now()
	added, err := s.Service.Add(ctx, s.Cart, Item{SKU: sku, Quantity: 1})
	s.note(Write{SKU: sku, SentAt: sent, AckedAt: time.Now(), Life: added.Life}, err)
}

// note takes down how one write ended.
func (s *Shopper) note(w Write, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.report
	r.Attempts++
	if err != nil {
		if !r.Down() {
			r.Outages = append(r.Outages, Outage{LastSuccess: r.Last.AckedAt, Error: err.Error()})
		}
		r.Outages[len(r.Outages)-1].Failures++
		return
	}
	if r.Down() {
		r.Outages[len(r.Outages)-1].FirstSuccess = w.AckedAt
	}
	if gap := w.AckedAt.Sub(r.Last.AckedAt); r.Acked > 0 && gap > r.Standstill {
		r.Standstill, r.StandstillAt = gap, w.AckedAt
	}
	if n := len(r.Births); n == 0 || r.Births[n-1].Birth != w.Birth {
		r.Births = append(r.Births, Seen{Birth: w.Birth, First: w.AckedAt})
	}
	r.Births[len(r.Births)-1].Last = w.AckedAt
	r.Acked++
	r.Last = w
	r.Writes = append(r.Writes, w)
}

// Report returns a copy of everything noted so far.
func (s *Shopper) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	report := s.report
	report.Cart = s.Cart
	report.Outages = slices.Clone(report.Outages)
	report.Births = slices.Clone(report.Births)
	report.Writes = slices.Clone(report.Writes)
	return report
}

// Handler serves the notes: GET /report, GET /status without the writes, and GET /healthz.
func (s *Shopper) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /report", func(w http.ResponseWriter, r *http.Request) { answer(w, s.Report()) })
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { answer(w, s.Report().Status) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

// ShopperHTTP returns a client that notices soon when the other side is gone:
// it keeps one connection, and gives it up with the first request that times out.
func ShopperHTTP(timeout time.Duration) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: timeout}).DialContext,
		MaxIdleConnsPerHost: 1,
	}}
}
