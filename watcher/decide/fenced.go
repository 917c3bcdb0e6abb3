package decide

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Fenced is a node whose protected pods surely run no more. Only FencedBy makes one
// that names a node, from a record that says so: that a node looks lost, or was
// declared so, permits nobody to delete or restore its pods.
type Fenced struct {
	record *v1alpha1.Fence
}

// FencedBy returns the node of a record that says Fenced, else false.
func FencedBy(record *v1alpha1.Fence) (Fenced, bool) {
	if record.Spec.State != v1alpha1.FenceFenced || record.Spec.LostAt == nil || record.Name == "" {
		return Fenced{}, false
	}
	return Fenced{record.DeepCopy()}, true
}

// Node is the node's name, empty for the zero Fenced.
func (f Fenced) Node() string {
	if f.record == nil {
		return ""
	}
	return f.record.Name
}

// Epoch is the node's epoch from this loss on.
func (f Fenced) Epoch() int64 { return f.record.Spec.Epoch }

// LostAt is the last moment at which the node was known to be alive.
func (f Fenced) LostAt() metav1.MicroTime { return *f.record.Spec.LostAt }

// Proof is what makes it sure that the node's pods run no more.
func (f Fenced) Proof() v1alpha1.FenceProof { return f.record.Spec.Proof }

// Annotation is the value of one of the record's annotations.
func (f Fenced) Annotation(key string) string { return f.record.Annotations[key] }
