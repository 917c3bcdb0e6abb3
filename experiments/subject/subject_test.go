package subject

import (
	"context"
	"net"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/experiments/app"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// work has a client do all that it can.
func work(t *testing.T, c Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b", "a"} {
		if err := c.Add(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Read(ctx); err != nil {
		t.Error(err)
	}
	counts, err := c.Counts(ctx)
	if diff := cmp.Diff(map[string]int{"a": 2, "b": 1}, counts); diff != "" && !Stateless(err) || err != nil && !Stateless(err) {
		t.Error(diff, err)
	}
	if wrong, err := c.Check(ctx); err != nil || wrong != 0 {
		t.Errorf("%d pages are wrong, %v", wrong, err)
	}
}

func TestClientCountsWhatItAdds(t *testing.T) {
	for _, a := range []matrix.Application{matrix.Cart, matrix.Stateless} {
		var carts *cart.Store
		if a == matrix.Cart {
			carts = cart.New()
		}
		served, err := app.New(carts, content.Text, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(served.Handler())
		t.Cleanup(server.Close)
		c := newWeb(matrix.Cell{Application: a}, (&net.Dialer{}).DialContext, server.Listener.Addr().String())
		t.Cleanup(c.Close)
		work(t, c)
	}
}
