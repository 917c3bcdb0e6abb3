package subject

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/experiments/app"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// cartName is the cart that the clients fill.
const cartName = "experiment"

// idleConnections is more than ever are in use at once.
const idleConnections = 256

// web is a client of the cart, and of the stateless application.
type web struct {
	url       string
	stateless bool
	http      *http.Client
	carts     cart.Client
}

func newWeb(cell matrix.Cell, dial Dial, address string) *web {
	w := &web{
		url: "http://" + address, stateless: cell.Application == matrix.Stateless,
		http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: idleConnections}},
	}
	w.carts = cart.Client{URL: w.url, HTTP: w.http}
	return w
}

func (w *web) Read(ctx context.Context) error {
	if w.stateless {
		return w.do(ctx, http.MethodGet, app.QuotesPath+"read", nil)
	}
	_, err := w.carts.Life(ctx)
	return err
}

func (w *web) Add(ctx context.Context, key string) error {
	if w.stateless {
		return w.do(ctx, http.MethodPost, app.OrdersPath+key, nil)
	}
	_, err := w.carts.Add(ctx, cartName, cart.Item{SKU: key, Quantity: 1})
	return err
}

// Prepare does nothing: the application answers once its memory is filled.
func (w *web) Prepare(context.Context) error { return nil }

// Rewrite does nothing: the application does it.
func (w *web) Rewrite(context.Context) {}

// errNoState is returned by Counts for an application that keeps nothing.
var errNoState = errors.New("the application keeps nothing")

func (w *web) Counts(ctx context.Context) (map[string]int, error) {
	if w.stateless {
		return nil, errNoState
	}
	snapshot, err := w.carts.Snapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the cart: %w", err)
	}
	counts := map[string]int{}
	for _, item := range snapshot.Carts[cartName] {
		counts[item.SKU] = item.Quantity
	}
	return counts, nil
}

func (w *web) Rewritten(ctx context.Context) (bytes int64, err error) {
	if err := w.do(ctx, http.MethodGet, app.RewrittenPath, &bytes); err != nil {
		return 0, fmt.Errorf("ask the application what it has rewritten: %w", err)
	}
	return bytes, nil
}

func (w *web) Check(ctx context.Context) (int, error) {
	var found app.Health
	if err := w.do(ctx, http.MethodGet, app.MemoryPath, &found); err != nil {
		return 0, fmt.Errorf("check the application's memory: %w", err)
	}
	return found.Wrong, nil
}

func (w *web) Close() { w.http.CloseIdleConnections() }

// do sends a request and reads the whole answer, into a value if there is one.
func (w *web) do(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(body)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

// Stateless says whether an error of Counts means that there is nothing to count.
func Stateless(err error) bool { return errors.Is(err, errNoState) }
