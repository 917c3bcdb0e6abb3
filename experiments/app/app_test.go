package app

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
)

const small = 64 * content.PageSize

func newApp(t *testing.T, carts *cart.Store, size int64) (*App, *httptest.Server) {
	t.Helper()
	a, err := New(carts, content.Text, size)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(a.Handler())
	t.Cleanup(func() {
		server.Close()
		a.memory.Close()
	})
	return a, server
}

func health(t *testing.T, server *httptest.Server) Health {
	t.Helper()
	resp, err := http.Get(server.URL + MemoryPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var h Health
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestCheckFindsWrongPages(t *testing.T) {
	a, server := newApp(t, nil, small)
	a.memory.rewrite(10)
	if diff := cmp.Diff(Health{Pages: 64}, health(t, server)); diff != "" {
		t.Error(diff)
	}
	if got := a.memory.Rewritten(); got != 10*content.PageSize {
		t.Errorf("%d bytes were rewritten", got)
	}
	clear(a.memory.page(3))      // as if it had not been restored
	a.memory.fill(20)            // as it is
	a.memory.versions[30]++      // as if an older one had been
	a.memory.page(63)[4095] ^= 1 // a bit
	if got := health(t, server).Wrong; got != 3 {
		t.Errorf("%d pages are wrong, want 3", got)
	}
}

func TestRewriteComesRoundAgain(t *testing.T) {
	a, _ := newApp(t, nil, small)
	a.memory.rewrite(70)
	if first, last := a.memory.versions[0], a.memory.versions[63]; first != 2 || last != 1 || a.memory.Check().Wrong != 0 {
		t.Errorf("versions %d and %d, %+v", first, last, a.memory.Check())
	}
}

func post(t *testing.T, url string, body io.Reader) (int, string) {
	t.Helper()
	resp, err := http.Post(url, "", body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestHandoverTakesEverythingAndRefusesWritesAfterIt(t *testing.T) {
	old, oldServer := newApp(t, cart.New(), small)
	fresh, freshServer := newApp(t, cart.New(), small)
	add := func(server *httptest.Server, sku string) int {
		status, _ := post(t, server.URL+"/carts/bob/items", strings.NewReader(`{"sku": "`+sku+`", "quantity": 1}`))
		return status
	}
	if status := add(oldServer, "pear"); status != http.StatusOK {
		t.Fatalf("a write is answered with %d", status)
	}
	old.memory.rewrite(5)
	resp, err := http.Get(oldServer.URL + StatePath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	state, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if status := add(oldServer, "plum"); status != http.StatusServiceUnavailable {
		t.Errorf("a write after the state was given away is answered with %d", status)
	}
	if status, text := post(t, freshServer.URL+StatePath, bytes.NewReader(state)); status != http.StatusOK {
		t.Fatalf("import: %d: %s", status, text)
	}
	if diff := cmp.Diff(old.carts.Snapshot().Carts, fresh.carts.Snapshot().Carts); diff != "" {
		t.Error(diff)
	}
	if fresh.memory.versions[4] != 1 || fresh.memory.versions[5] != 0 || health(t, freshServer).Wrong != 0 {
		t.Errorf("memory: %+v", health(t, freshServer))
	}
	if status := add(freshServer, "plum"); status != http.StatusOK {
		t.Errorf("a write to the new one is answered with %d", status)
	}
	// Part of a state must not pass for one.
	_, other := newApp(t, cart.New(), small)
	if status, text := post(t, other.URL+StatePath, bytes.NewReader(state[:len(state)-1])); status != http.StatusBadRequest || !strings.Contains(text, "read the pages") {
		t.Errorf("import of a part: %d: %s", status, text)
	}
	_, larger := newApp(t, cart.New(), 2*small)
	if status, text := post(t, larger.URL+StatePath, bytes.NewReader(state)); status != http.StatusBadRequest || !strings.Contains(text, "does not fit") {
		t.Errorf("import into more memory: %d: %s", status, text)
	}
}
