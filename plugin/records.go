package plugin

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// records are the Migrations and Fences as the plugin knows them: what the watch
// has told, and what was read beside it because the watch might be behind. Of two
// states of an object the newer one stays. It is safe for concurrent use.
type records struct {
	mu         sync.RWMutex
	migrations map[string]map[types.UID]*migrationRecord // by namespace
	lines      map[line]map[types.UID]*migrationRecord   // the open ones
	nodes      map[string]*node
}

type migrationRecord struct {
	migration *v1alpha1.Migration
	seen      time.Time // when the plugin first knew that its node is fenced
}

// node is what the plugin knows of a node beside its Node object.
type node struct {
	fence *v1alpha1.Fence
	facts facts
}

// line is what a pod and its successor have in common: their controller, or the
// name where there is none.
type line struct {
	namespace  string
	controller types.UID
	pod        string
}

func newRecords() *records {
	return &records{
		migrations: map[string]map[types.UID]*migrationRecord{},
		lines:      map[line]map[types.UID]*migrationRecord{},
		nodes:      map[string]*node{},
	}
}

func lineOfPod(pod *corev1.Pod) line {
	if controller := metav1.GetControllerOfNoCopy(pod); controller != nil {
		return line{namespace: pod.Namespace, controller: controller.UID}
	}
	return line{namespace: pod.Namespace, pod: pod.Name}
}

func lineOfMigration(m *v1alpha1.Migration) line {
	if m.Spec.Pod.OwnerUID != "" {
		return line{namespace: m.Namespace, controller: m.Spec.Pod.OwnerUID}
	}
	return line{namespace: m.Namespace, pod: m.Spec.Pod.Name}
}

// newer says whether version is of a later write than known. Both are of the
// same kind of object.
func newer(version, known string) bool {
	order, err := resourceversion.CompareResourceVersion(version, known)
	return err != nil || order > 0
}

func (r *records) putMigration(m *v1alpha1.Migration, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.putMigrationLocked(m, now)
}

func (r *records) putMigrationLocked(m *v1alpha1.Migration, now time.Time) {
	record := &migrationRecord{migration: m, seen: now}
	if known := r.migrations[m.Namespace][m.UID]; known != nil {
		if !newer(m.ResourceVersion, known.migration.ResourceVersion) {
			return
		}
		if fenced(known.migration) {
			record.seen = known.seen
		}
	}
	put(r.migrations, m.Namespace, m.UID, record)
	if m.Open() && m.DeletionTimestamp == nil {
		put(r.lines, lineOfMigration(m), m.UID, record)
	} else {
		drop(r.lines, lineOfMigration(m), m.UID)
	}
}

func (r *records) dropMigration(m *v1alpha1.Migration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropMigrationLocked(m)
}

func (r *records) dropMigrationLocked(m *v1alpha1.Migration) {
	drop(r.migrations, m.Namespace, m.UID)
	drop(r.lines, lineOfMigration(m), m.UID)
}

// readMigrations takes over all Migrations of a namespace as they were at a
// version. What is known of an earlier one and was not among them is gone.
func (r *records) readMigrations(namespace string, all []*v1alpha1.Migration, version string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	listed := make(map[types.UID]bool, len(all))
	for _, m := range all {
		listed[m.UID] = true
		r.putMigrationLocked(m, now)
	}
	for uid, known := range r.migrations[namespace] {
		if !listed[uid] && !newer(known.migration.ResourceVersion, version) {
			r.dropMigrationLocked(known.migration)
		}
	}
}

// open are the open Migrations of the pod's line.
func (r *records) open(pod *corev1.Pod) []*v1alpha1.Migration {
	r.mu.RLock()
	defer r.mu.RUnlock()
	records := r.lines[lineOfPod(pod)]
	if len(records) == 0 {
		return nil
	}
	migrations := make([]*v1alpha1.Migration, 0, len(records))
	for _, record := range records {
		migrations = append(migrations, record.migration)
	}
	return migrations
}

// seen is when the plugin first knew of a Migration that its node is fenced.
func (r *records) seen(m *v1alpha1.Migration) time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if record := r.migrations[m.Namespace][m.UID]; record != nil {
		return record.seen
	}
	return time.Now()
}

// putFence takes over a Fence. A nil one says that the node has none.
func (r *records) putFence(name string, fence *v1alpha1.Fence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.nodes[name]
	switch {
	case fence == nil:
		delete(r.nodes, name)
	case known == nil || known.fence.UID != fence.UID || newer(fence.ResourceVersion, known.fence.ResourceVersion):
		r.nodes[name] = nodeOf(fence)
	}
}

// nodeOf is a node with this Fence, nil where there is none.
func nodeOf(fence *v1alpha1.Fence) *node {
	if fence == nil {
		return nil
	}
	return &node{fence: fence, facts: parseFacts(fence.Status.Facts)}
}

// node is what is known of a node, nil when it has no Fence.
func (r *records) node(name string) *node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.nodes[name]
}

func put[K comparable, V any](in map[K]map[types.UID]V, key K, uid types.UID, value V) {
	if in[key] == nil {
		in[key] = map[types.UID]V{}
	}
	in[key][uid] = value
}

func drop[K comparable, V any](from map[K]map[types.UID]V, key K, uid types.UID) {
	delete(from[key], uid)
	if len(from[key]) == 0 {
		delete(from, key)
	}
}
