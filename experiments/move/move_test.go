package move

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

func TestEveryStrategyHasAWay(t *testing.T) {
	for _, s := range matrix.Strategies {
		if _, err := Of(s); err != nil {
			t.Error(err)
		}
	}
	if _, err := Of("beam"); err == nil {
		t.Error("an unknown strategy was taken")
	}
}

func TestRenameLeavesAllButItsPlace(t *testing.T) {
	raw := `{"root": {"path": "rootfs"}, "linux": {"cgroupsPath": "/kubepods/besteffort/podx/abc", "namespaces": [{"type": "network", "path": "/proc/7/ns/net"}]}, "annotations": {"a": "b"}}`
	got, err := rename([]byte(raw), "/bundles/abc/rootfs", "abc", "stock-1")
	if err != nil {
		t.Fatal(err)
	}
	var config any
	if err := json.Unmarshal(got, &config); err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	want := object{
		"root":        object{"path": "/bundles/abc/rootfs"},
		"linux":       object{"cgroupsPath": "/kubepods/besteffort/podx/stock-1", "namespaces": []any{object{"type": "network", "path": "/proc/7/ns/net"}}},
		"annotations": object{"a": "b", "org.criu.config": stockOptions},
	}
	if diff := cmp.Diff(any(want), config); diff != "" {
		t.Error(diff)
	}
	for _, wrong := range []string{`{}`, strings.Replace(raw, "podx/abc", "podx/other", 1), `nothing`} {
		if _, err := rename([]byte(wrong), "", "abc", "x"); err == nil {
			t.Errorf("taken: %s", wrong)
		}
	}
}

func TestTakeTellsWhatTheMigrationSays(t *testing.T) {
	at := func(s int64) *metav1.MicroTime { t := metav1.NewMicroTime(time.Unix(s, 0)); return &t }
	m := &v1alpha1.Migration{Status: v1alpha1.MigrationStatus{
		Result: v1alpha1.ResultRestored, RPOSeconds: 0,
		Phases: []v1alpha1.PhaseTime{{Phase: v1alpha1.PhaseAccepted, At: *at(1)}, {Phase: v1alpha1.PhaseReady, At: *at(9)}},
		Source: &v1alpha1.SourceStatus{PausedAt: at(4), StoppedAt: at(6), BytesSent: 77},
	}}
	o := newOutcome()
	o.take(m)
	want := Outcome{Result: "Restored", Pause: 2, Bytes: 77, Moments: []Moment{{"Accepted", time.Unix(1, 0)}, {"Ready", time.Unix(9, 0)}}}
	if diff := cmp.Diff(want, o, cmpopts.IgnoreFields(Outcome{}, "AskedAt", "DoneAt")); diff != "" {
		t.Error(diff)
	}
	// The age of a state that did not come back is no age of 0.
	m.Status = v1alpha1.MigrationStatus{Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonNoCheckpoint}
	o = newOutcome()
	o.take(m)
	if !math.IsNaN(o.RPO) || !math.IsNaN(o.Pause) || !math.IsNaN(o.Bytes) || o.Reason != "NoCheckpoint" {
		t.Errorf("%+v", o)
	}
}
