package trigger

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/metrics"
)

// fieldOwner is the watcher's name as a writer.
const fieldOwner = client.FieldOwner("lifeboat-watcher")

// recordTries is how often a Migration is made anew because its name is taken. What the
// API server itself lists is rarely behind.
const recordTries = 3

// Recorder records planned moves. All fields are required.
type Recorder struct {
	// Client reads from the manager's cache, Reader from the API server.
	Client  client.Client
	Reader  client.Reader
	Metrics *metrics.Triggers
}

// Record creates the Migration of a move, with the annotations, unless the pod has an open
// one already. It returns the one that there is then, and whether it was created.
func (r *Recorder) Record(ctx context.Context, pod *corev1.Pod, ask v1alpha1.Move, annotations map[string]string) (*v1alpha1.Migration, bool, error) {
	checkpoint := &v1alpha1.Checkpoint{}
	if err := r.Client.Get(ctx, client.ObjectKeyFromObject(pod), checkpoint); client.IgnoreNotFound(err) != nil {
		return nil, false, fmt.Errorf("read checkpoint %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	var reader client.Reader = r.Client
	for try := 1; ; try++ {
		var known v1alpha1.MigrationList
		if err := reader.List(ctx, &known, client.InNamespace(pod.Namespace)); err != nil {
			return nil, false, fmt.Errorf("list migrations in %s: %w", pod.Namespace, err)
		}
		now := time.Now()
		if open := pastOf(pod, ask.Reason, known.Items, now).open; open != nil {
			return open, false, nil
		}
		m := v1alpha1.NewMove(pod, ask, v1alpha1.NextEpoch(pod, checkpoint, known.Items), now)
		m.Annotations = maps.Clone(annotations)
		err := r.Client.Create(ctx, m, fieldOwner)
		switch {
		case err == nil:
			r.Metrics.Began(ask.Reason)
			return m, true, nil
		case !apierrors.IsAlreadyExists(err) || try == recordTries:
			return nil, false, fmt.Errorf("record the move of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		reader = r.Reader // the cache is behind
	}
}

// Note writes AnnotationEvicted of a Migration.
func (r *Recorder) Note(ctx context.Context, m *v1alpha1.Migration, now time.Time) error {
	noted := m.DeepCopy()
	for key, value := range Evicted(now) {
		metav1.SetMetaDataAnnotation(&noted.ObjectMeta, key, value)
	}
	if err := r.Client.Patch(ctx, noted, client.MergeFrom(m), fieldOwner); err != nil {
		return fmt.Errorf("note in migration %s/%s that its pod is evicted: %w", m.Namespace, m.Name, err)
	}
	return nil
}

// Evicted is AnnotationEvicted of now.
func Evicted(now time.Time) map[string]string {
	return map[string]string{AnnotationEvicted: now.UTC().Format(time.RFC3339)}
}

// nameOf names a pod of an event.
func nameOf(object metav1.Object) string { return object.GetNamespace() + "/" + object.GetName() }
