package cart

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestSnapshotHasEveryAcknowledgedItem(t *testing.T) {
	store := New()
	server := httptest.NewServer(store.Handler())
	defer server.Close()
	client := Client{URL: server.URL, HTTP: server.Client()}
	for _, item := range []Item{{"pear", 2}, {"apple", 1}, {"pear", 3}} {
		if _, err := client.Add(t.Context(), "bob", item); err != nil {
			t.Fatal(err)
		}
	}
	store.Tick()
	snapshot, err := client.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Snapshot{
		Life:  Life{Birth: store.Life().Birth, Ticks: 1},
		Items: 2,
		Carts: map[string][]Item{"bob": {{"apple", 1}, {"pear", 5}}},
	}
	if diff := cmp.Diff(want, snapshot, cmpopts.IgnoreFields(Snapshot{}, "Checksum")); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	if !snapshot.Has("bob", "pear") || snapshot.Has("bob", "plum") || snapshot.Has("eve", "pear") {
		t.Error("Has does not tell what is in a cart from what is not")
	}
}

func TestChecksumTellsContentsApart(t *testing.T) {
	checksum := func(adds ...[2]string) string {
		store := New()
		for _, add := range adds {
			if _, err := store.Add(add[0], Item{SKU: add[1], Quantity: 1}); err != nil {
				t.Fatal(err)
			}
		}
		return store.Snapshot().Checksum
	}
	base := checksum([2]string{"a", "x"}, [2]string{"b", "y"})
	if base != checksum([2]string{"b", "y"}, [2]string{"a", "x"}) {
		t.Error("the order of the writes shows in the checksum")
	}
	for name, other := range map[string]string{
		"fewer items":  checksum([2]string{"a", "x"}),
		"another cart": checksum([2]string{"a", "x"}, [2]string{"a", "y"}),
		"more of one":  checksum([2]string{"a", "x"}, [2]string{"b", "y"}, [2]string{"b", "y"}),
	} {
		if other == base {
			t.Errorf("%s: same checksum", name)
		}
	}
}

func TestAddRefusesWhatIsNotAnItem(t *testing.T) {
	server := httptest.NewServer(New().Handler())
	defer server.Close()
	client := Client{URL: server.URL, HTTP: server.Client()}
	for _, item := range []Item{{"", 1}, {"pear", 0}, {"pear", -1}} {
		if _, err := client.Add(t.Context(), "bob", item); err == nil {
			t.Errorf("%+v was taken", item)
		}
	}
}

func TestShopperNotesAnOutageAndWhoAnsweredAfterIt(t *testing.T) {
	at := func(second int) time.Time { return time.Unix(int64(second), 0) }
	write := func(second int, sku, birth string) Write {
		return Write{SKU: sku, SentAt: at(second), AckedAt: at(second), Life: Life{Birth: birth}}
	}
	var s Shopper
	s.note(write(1, "a", "first"), nil)
	s.note(write(2, "b", ""), context.DeadlineExceeded)
	s.note(write(3, "c", ""), http.ErrServerClosed)
	if !s.Report().Down() {
		t.Error("the service does not count as down while it fails")
	}
	s.note(write(7, "d", "second"), nil)
	want := Report{
		Status: Status{
			Attempts: 4, Acked: 2,
			Last:       write(7, "d", "second"),
			Outages:    []Outage{{LastSuccess: at(1), FirstSuccess: at(7), Failures: 2, Error: context.DeadlineExceeded.Error()}},
			Standstill: 6 * time.Second, StandstillAt: at(7),
			Births: []Seen{{"first", at(1), at(1)}, {"second", at(7), at(7)}},
		},
		Writes: []Write{write(1, "a", "first"), write(7, "d", "second")},
	}
	got := s.Report()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if outage, found := got.Around(at(3)); !found || outage.Length() != 6*time.Second {
		t.Errorf("the outage around the failure is %v, %v", outage, found)
	}
	if _, found := got.Around(at(8)); found {
		t.Error("an outage was found after the last one")
	}
}

func TestShopperSendsEachItemOnce(t *testing.T) {
	store := New()
	server := httptest.NewServer(store.Handler())
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	shopper := &Shopper{
		Service: Client{URL: server.URL, HTTP: server.Client()},
		Cart:    "alice", Every: time.Millisecond, Timeout: 5 * time.Second,
	}
	done := make(chan struct{})
	go func() { shopper.Run(ctx); close(done) }()
	for shopper.Report().Acked < 20 {
		select {
		case <-t.Context().Done():
			t.Fatal("the shopper did not get 20 answers")
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	<-done
	snapshot := store.Snapshot()
	for _, write := range shopper.Report().Writes {
		if !snapshot.Has("alice", write.SKU) {
			t.Errorf("%s was acknowledged and is not in the cart", write.SKU)
		}
	}
	for _, item := range snapshot.Carts["alice"] {
		if item.Quantity != 1 {
			t.Errorf("%s was sent %d times", item.SKU, item.Quantity)
		}
	}
}

// TestHandOver: an import adds to what was put in here, replaces what an earlier one
// brought, and a cart that is held takes nothing.
func TestHandOver(t *testing.T) {
	from, to := New(), New()
	put := func(s *Store, sku string) error {
		_, err := s.Add("alice", Item{SKU: sku, Quantity: 1})
		return err
	}
	for _, err := range []error{put(from, "apple"), put(from, "pear"), put(to, "pear")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	from.Hold()
	if err := put(from, "plum"); !errors.Is(err, ErrHeld) {
		t.Errorf("a cart that is held says %v", err)
	}
	to.Import(map[string][]Item{"alice": {{SKU: "nut", Quantity: 7}}})
	to.Import(from.Snapshot().Carts)
	to.Import(from.Snapshot().Carts)
	if got, want := to.Cart("alice"), []Item{{SKU: "apple", Quantity: 1}, {SKU: "pear", Quantity: 2}}; !slices.Equal(got, want) {
		t.Errorf("the cart has %v, want %v", got, want)
	}
	from.GoOn()
	if err := put(from, "plum"); err != nil {
		t.Error(err)
	}
}
