package loss

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
)

var cut = time.Unix(1000, 0)

func at(seconds float64) time.Time { return cut.Add(time.Duration(seconds * float64(time.Second))) }

// survived is the record of a cart that came back with its state of one second
// before the cut: five writes were acknowledged before that, two after.
func survived() *Record {
	first := cart.Life{Birth: "FIRST", Ticks: 50}
	var writes []cart.Write
	for i, second := range []float64{-5, -4, -3, -2, -1.5, -0.5, -0.1, 6.5} {
		writes = append(writes, cart.Write{SKU: string(rune('a' + i)), SentAt: at(second - 0.01), AckedAt: at(second), Life: cart.Life{Birth: "FIRST", Ticks: int64(10 * i)}})
	}
	taken := metav1.NewMicroTime(at(-1))
	return &Record{
		Source: "n1", Target: "n2", CutAt: cut, seeded: map[string][]cart.Item{"bob": {{SKU: "pear", Quantity: 2}}},
		Migration: v1alpha1.Migration{Status: v1alpha1.MigrationStatus{
			Result: v1alpha1.ResultRestored, RTOSeconds: 6, RPOSeconds: 1,
			Restore: &v1alpha1.RestoreStatus{Generation: 3, TakenAt: &taken},
		}},
		Before: cart.Snapshot{Life: first},
		After: cart.Snapshot{Life: cart.Life{Birth: "FIRST", Ticks: 60}, Carts: map[string][]cart.Item{
			"alice": {{SKU: "a", Quantity: 1}, {SKU: "b", Quantity: 1}, {SKU: "c", Quantity: 1}, {SKU: "d", Quantity: 1}, {SKU: "e", Quantity: 1}, {SKU: "h", Quantity: 1}},
			"bob":   {{SKU: "pear", Quantity: 2}},
		}},
		Report: cart.Report{
			Status: cart.Status{Cart: "alice", Outages: []cart.Outage{{LastSuccess: at(-0.1), FirstSuccess: at(6.5), Failures: 20}}},
			Writes: writes,
		},
		Moments: []Moment{{Declared, at(1)}, {Fenced, at(3.5)}, {PodReady, at(6)}, {FirstReply, at(6.5)}},
	}
}

func TestVerdict(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Record)
		want   string // in the verdict; empty when there is nothing against the cart
	}{
		"survived": {func(*Record) {}, ""},
		"another process": {func(r *Record) {
			r.After.Birth = "SECOND"
		}, "the cart started anew"},
		"an old item is missing": {func(r *Record) {
			r.After.Carts["alice"] = r.After.Carts["alice"][1:]
		}, "1 acknowledged items are missing that are older than the checkpoint"},
		"a cart at rest differs": {func(r *Record) {
			r.After.Carts["bob"][0].Quantity = 1
		}, "carts that nobody changed differ"},
		"cold start": {func(r *Record) {
			r.Migration.Status.Result, r.Migration.Status.Reason = v1alpha1.ResultColdStarted, v1alpha1.ReasonNoCheckpoint
		}, `the Migration's result is "ColdStarted": NoCheckpoint`},
		"nothing restored": {func(r *Record) {
			r.Migration.Status.Restore = nil
		}, "does not say which moment came back"},
		"time went back": {func(r *Record) {
			r.After.Ticks = 30
		}, "counted 40 ticks before the checkpoint and 30 after"},
		"no answer": {func(r *Record) {
			r.Report.Outages[0].FirstSuccess = time.Time{}
		}, "no outage that ended after the cut"},
	} {
		t.Run(name, func(t *testing.T) {
			r := survived()
			test.change(r)
			err := r.Verdict()
			if test.want == "" && err != nil {
				t.Errorf("the verdict is %v, and nothing speaks against the cart", err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("the verdict is %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestWritesTellWindowFromLoss(t *testing.T) {
	r := survived()
	writes := r.Writes()
	if writes.Acked != 7 || writes.Restored != 5 || writes.InWindow != 2 || len(writes.Older) != 0 {
		t.Errorf("%+v, want 7 acknowledged before the outage, 5 of them back, 2 lost in the window", writes)
	}
	if r.ClientRTO() != 6500*time.Millisecond {
		t.Errorf("the shopper was away from the cut for %s, want 6.5 s", r.ClientRTO())
	}
	if since, known := r.Since(Fenced); !known || since != 3500*time.Millisecond {
		t.Errorf("fenced after %s, %v", since, known)
	}
	if _, known := r.Since(Scheduled); known {
		t.Error("a moment that was not seen has a time")
	}
}
