package decide

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestFencedBy: only a whole record that says Fenced is proof, and what is read from it
// does not change with the record.
func TestFencedBy(t *testing.T) {
	at := metav1.NowMicro()
	record := &v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: v1alpha1.FenceSpec{State: v1alpha1.FenceFenced, Epoch: 3, LostAt: &at}}
	fenced, ok := FencedBy(record)
	if !ok || fenced.Node() != "n1" || fenced.Epoch() != 3 {
		t.Fatalf("%+v, %t", fenced, ok)
	}
	record.Name, record.Spec.Epoch = "n2", 4
	if fenced.Node() != "n1" || fenced.Epoch() != 3 {
		t.Error("it follows the record, which may be somebody else's by now")
	}
	for name, change := range map[string]func(*v1alpha1.Fence){
		"lost":           func(f *v1alpha1.Fence) { f.Spec.State = v1alpha1.FenceLost },
		"running":        func(f *v1alpha1.Fence) { f.Spec.State = v1alpha1.FenceRunning },
		"does not exist": func(f *v1alpha1.Fence) { *f = v1alpha1.Fence{} },
		"when unknown":   func(f *v1alpha1.Fence) { f.Spec.LostAt = nil },
	} {
		other := record.DeepCopy()
		change(other)
		if fenced, ok := FencedBy(other); ok || fenced.Node() != "" {
			t.Errorf("%s: node %q counts as fenced", name, fenced.Node())
		}
	}
}
