package cart

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Paths of the endpoints by which a cart hands its state over.
const (
	StatePath = "/state" // GET exports all carts, POST imports those of another service
	HoldPath  = "/hold"  // POST refuses items from now on
	GoOnPath  = "/go-on" // POST takes them again
)

// ErrHeld is what Add returns while items are refused.
var ErrHeld = errors.New("the cart takes no items just now")

// Hold refuses items until GoOn, so that what is exported stays all that there is.
func (s *Store) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
}

// GoOn ends Hold.
func (s *Store) GoOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = false
}

// Import adds the carts of another service, in place of those that an earlier import
// brought. What was put into the carts here stays.
func (s *Store) Import(carts map[string][]Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addAll(s.imported, -1)
	s.imported = carts
	s.addAll(carts, 1)
}

// addAll adds each line of carts so many times. s.mu is held.
func (s *Store) addAll(carts map[string][]Item, times int) {
	for name, lines := range carts {
		if s.carts[name] == nil {
			s.carts[name] = map[string]int{}
		}
		for _, line := range lines {
			s.carts[name][line.SKU] += times * line.Quantity
			if s.carts[name][line.SKU] == 0 {
				delete(s.carts[name], line.SKU)
			}
		}
	}
}

// handOver adds the endpoints for it.
func (s *Store) handOver(mux *http.ServeMux) {
	mux.HandleFunc("GET "+StatePath, func(w http.ResponseWriter, _ *http.Request) { answer(w, s.Snapshot().Carts) })
	mux.HandleFunc("POST "+StatePath, func(w http.ResponseWriter, r *http.Request) {
		var carts map[string][]Item
		if err := json.NewDecoder(r.Body).Decode(&carts); err != nil {
			http.Error(w, fmt.Sprintf("read the carts: %v", err), http.StatusBadRequest)
			return
		}
		s.Import(carts)
		answer(w, len(carts))
	})
	mux.HandleFunc("POST "+HoldPath, func(http.ResponseWriter, *http.Request) { s.Hold() })
	mux.HandleFunc("POST "+GoOnPath, func(http.ResponseWriter, *http.Request) { s.GoOn() })
}
