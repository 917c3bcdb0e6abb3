package cart

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Added is the answer to an item that was put into a cart.
type Added struct {
	Life
	Cart string `json:"cart"`
	Item Item   `json:"item"`
}

// Handler serves the carts over HTTP:
//
//	POST /carts/{id}/items  puts an item into a cart
//	GET  /carts/{id}        one cart
//	GET  /carts             every cart, with the number of items and a checksum
//	GET  /healthz           its birth and ticks
//
// and the endpoints by which it hands its state over.
func (s *Store) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /carts/{id}/items", func(w http.ResponseWriter, r *http.Request) {
		var item Item
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&item); err != nil {
			http.Error(w, fmt.Sprintf("read the item: %v", err), http.StatusBadRequest)
			return
		}
		line, err := s.Add(r.PathValue("id"), item)
		switch {
		case errors.Is(err, ErrHeld):
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, Added{Life: s.Life(), Cart: r.PathValue("id"), Item: line})
	})
	mux.HandleFunc("GET /carts/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, s.Cart(r.PathValue("id")))
	})
	mux.HandleFunc("GET /carts", func(w http.ResponseWriter, r *http.Request) { answer(w, s.Snapshot()) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { answer(w, s.Life()) })
	s.handOver(mux)
	return mux
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(value)
}

// Client asks a cart service, or a shopper, over HTTP.
type Client struct {
	// URL is where it listens, as "http://10.0.0.7:8080".
	URL string
	// HTTP sends the requests.
	HTTP *http.Client
}

// Add puts an item into a cart.
func (c Client) Add(ctx context.Context, cart string, item Item) (Added, error) {
	body, err := json.Marshal(item)
	if err != nil {
		return Added{}, fmt.Errorf("write the item: %w", err)
	}
	var added Added
	err = c.do(ctx, http.MethodPost, "/carts/"+url.PathEscape(cart)+"/items", body, &added)
	return added, err
}

// Snapshot reads everything that the service holds.
func (c Client) Snapshot(ctx context.Context) (Snapshot, error) {
	var snapshot Snapshot
	err := c.do(ctx, http.MethodGet, "/carts", nil, &snapshot)
	return snapshot, err
}

// Life reads the service's birth and ticks.
func (c Client) Life(ctx context.Context) (Life, error) {
	var life Life
	err := c.do(ctx, http.MethodGet, "/healthz", nil, &life)
	return life, err
}

// Report reads everything that a shopper has noted.
func (c Client) Report(ctx context.Context) (Report, error) {
	var report Report
	err := c.do(ctx, http.MethodGet, "/report", nil, &report)
	return report, err
}

// Status reads a shopper's notes without its list of writes.
func (c Client) Status(ctx context.Context) (Status, error) {
	var status Status
	err := c.do(ctx, http.MethodGet, "/status", nil, &status)
	return status, err
}

func (c Client) do(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(data))
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return nil
}
