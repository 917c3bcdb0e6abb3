package app

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
)

// Paths of the applications' endpoints beside those of the cart.
const (
	HealthPath    = "/healthz"   // answers once the memory is filled
	MemoryPath    = "/memory"    // checks all of it, and tells Health
	RewrittenPath = "/rewritten" // how many bytes of it were rewritten
	StatePath     = "/state"     // GET gives the cart's state away, POST takes another's over
	OrdersPath    = "/orders/"   // the stateless application's POST; the key follows
	QuotesPath    = "/quotes/"   // and its GET
)

// HoldLimit is how long writes are refused after the state was given away. A handover
// that is given up must not leave an application that refuses them for ever.
const HoldLimit = 30 * time.Second

// App is one of the applications.
type App struct {
	memory *Memory
	carts  *cart.Store // nil for the stateless one

	mu        sync.RWMutex
	heldUntil time.Time
}

// New makes an application and fills its memory. Carts is nil for the stateless one.
func New(carts *cart.Store, kind content.Kind, size int64) (*App, error) {
	memory, err := NewMemory(kind, size)
	if err != nil {
		return nil, err
	}
	return &App{memory: memory, carts: carts}, nil
}

// Rewrite rewrites a share of the memory a second, in percent, until ctx ends.
func (a *App) Rewrite(ctx context.Context, percent int) { a.memory.Rewrite(ctx, percent) }

// Handler serves the application.
func (a *App) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+MemoryPath, func(w http.ResponseWriter, _ *http.Request) { reply(w, a.memory.Check()) })
	mux.HandleFunc("GET "+RewrittenPath, func(w http.ResponseWriter, _ *http.Request) { reply(w, a.memory.Rewritten()) })
	if a.carts == nil {
		mux.HandleFunc("GET "+HealthPath, func(w http.ResponseWriter, _ *http.Request) { reply(w, "ok") })
		mux.HandleFunc("GET "+QuotesPath+"{sku}", func(w http.ResponseWriter, r *http.Request) { reply(w, quote(r.PathValue("sku"))) })
		mux.HandleFunc("POST "+OrdersPath+"{sku}", func(w http.ResponseWriter, r *http.Request) { reply(w, quote(r.PathValue("sku"))) })
		return mux
	}
	mux.HandleFunc("GET "+StatePath, a.export)
	mux.HandleFunc("POST "+StatePath, a.imports)
	carts := a.carts.Handler()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			carts.ServeHTTP(w, r)
			return
		}
		// A write is over before the state is given away, or refused.
		a.mu.RLock()
		defer a.mu.RUnlock()
		if time.Now().Before(a.heldUntil) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the cart is handing its state over", http.StatusServiceUnavailable)
			return
		}
		carts.ServeHTTP(w, r)
	})
	return mux
}

// quote is what the stateless application computes.
func quote(sku string) map[string]any {
	price := 0
	for _, r := range strings.ToLower(sku) {
		price = (price*31 + int(r)) % 10_000
	}
	return map[string]any{"sku": sku, "cents": 100 + price}
}

func reply(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // nobody is left to be told
}

// handedOver is the head of a state on its way; the memory follows it.
type handedOver struct {
	Carts map[string][]cart.Item `json:"carts"`
}

// export gives the state away. Writes are refused from then on.
func (a *App) export(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	a.heldUntil = time.Now().Add(HoldLimit)
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := json.NewEncoder(w).Encode(handedOver{a.carts.Snapshot().Carts}); err != nil {
		return // the connection is gone, and with it who asked
	}
	_, _ = a.memory.WriteTo(w) // a short state is refused at its other end
}

// imports takes over the state that another cart has given away.
func (a *App) imports(w http.ResponseWriter, r *http.Request) {
	if err := a.take(r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	reply(w, "ok")
}

func (a *App) take(body io.Reader) error {
	in := bufio.NewReaderSize(body, 1<<20)
	head, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the carts: %w", err)
	}
	var state handedOver
	if err := json.Unmarshal(head, &state); err != nil {
		return fmt.Errorf("read the carts: %w", err)
	}
	if _, err := a.memory.ReadFrom(in); err != nil {
		return err
	}
	for name, items := range state.Carts {
		for _, item := range items {
			if _, err := a.carts.Add(name, item); err != nil {
				return fmt.Errorf("take over cart %s: %w", name, err)
			}
		}
	}
	return nil
}
