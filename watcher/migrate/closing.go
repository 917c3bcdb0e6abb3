package migrate

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// reporter is the watcher's name in its events.
const reporter = "lifeboat-watcher"

// toldFor is for how long after a Migration was recorded its closing is told, should
// the watcher that closed it not have come to that. Events live no longer.
const toldFor = time.Hour

// closed counts and logs a Migration that this watcher has just closed.
func (d *Driver) closed(m *v1alpha1.Migration) {
	s := m.Status
	if m.Clones() {
		d.Metrics.Clone(m)
		d.Log.Info("clone closed", "pod", m.Namespace+"/"+m.Spec.Clone.Pod.Name, "clone", m.Spec.Pod.Name, "epoch", m.Spec.Epoch,
			"result", s.Result, "total", s.RTO, "age", s.RPO, "reason", s.Reason, "message", s.Message)
		return
	}
	if m.Planned() {
		d.Metrics.Move(m)
		d.Log.Info("planned move closed", "pod", m.Namespace+"/"+m.Spec.Pod.Name, "node", m.Spec.SourceNode, "epoch", m.Spec.Epoch,
			"strategy", m.Spec.Strategy, "result", s.Result, "downtime", s.Downtime, "total", s.RTO, "reason", s.Reason, "message", s.Message)
		return
	}
	d.Metrics.Recovery(m)
	log := d.Log.With("pod", m.Namespace+"/"+m.Spec.Pod.Name, "node", m.Spec.SourceNode, "epoch", m.Spec.Epoch,
		"result", s.Result, "rto", s.RTO, "rpo", s.RPO)
	if s.Restore != nil {
		log = log.With("generation", s.Restore.Generation)
	}
	log.Info("recovery closed", "reason", s.Reason, "message", s.Message)
}

// tellClosed tells everybody what became of a Migration, once: the events' names
// follow from the Migration, so that a watcher that takes over from one that was lost
// in between tells it, and tells nothing twice.
func (d *Driver) tellClosed(ctx context.Context, m *v1alpha1.Migration) error {
	if m.DeletionTimestamp != nil {
		return nil
	}
	if _, told := d.told.LoadOrStore(m.UID, true); told {
		return nil
	}
	err := d.forgetManifest(ctx, m)
	if err == nil && time.Since(m.CreationTimestamp.Time) < toldFor {
		err = d.closingEvents(ctx, m)
	}
	if err != nil {
		d.told.Delete(m.UID)
	}
	return err
}

func (d *Driver) closingEvents(ctx context.Context, m *v1alpha1.Migration) error {
	s := m.Status
	kind, note := corev1.EventTypeWarning, s.Message
	switch s.Result {
	case v1alpha1.ResultRestored:
		kind, note = corev1.EventTypeNormal, fmt.Sprintf("%s; RTO %s, RPO %s", s.Message, s.RTO, s.RPO)
	case v1alpha1.ResultWithdrawn, v1alpha1.ResultImported, v1alpha1.ResultReplaced:
		kind = corev1.EventTypeNormal
	}
	action := "Recover"
	switch {
	case m.Clones():
		action = "Clone"
		if s.Result == v1alpha1.ResultRestored {
			note = fmt.Sprintf("%s as a clone of pod %s; it took %s, and its memory is %s older than the request", s.Message, m.Spec.Clone.Pod.Name, s.RTO, s.RPO)
		}
	case m.Planned():
		action = "Move"
		if s.RTO != "" {
			note = fmt.Sprintf("%s; it took %s, and for %s nobody answered", s.Message, s.RTO, cmp.Or(s.Downtime, "no time"))
		}
	}
	about := []corev1.ObjectReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Migration", Namespace: m.Namespace, Name: m.Name, UID: m.UID}}
	if pod, err := d.concerned(ctx, m); err == nil && pod != nil {
		about = append(about, corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID})
	}
	for _, object := range about {
		event := &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace,
				Name: eventName(m.Name, strings.ToLower(object.Kind), string(m.UID))},
			EventTime:           metav1.NowMicro(),
			ReportingController: reporter, ReportingInstance: reporter,
			Action: action, Reason: string(s.Result), Type: kind, Note: cut(note), Regarding: object,
		}
		if object.Kind == "Pod" {
			event.Related = &about[0]
		}
		if err := d.Client.Create(ctx, event); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("tell that migration %s/%s is closed: %w", m.Namespace, m.Name, err)
		}
	}
	return nil
}

// concerned is the pod that is told what became of a Migration: the successor or, of a
// planned move that was given up, the pod that runs on.
func (d *Driver) concerned(ctx context.Context, m *v1alpha1.Migration) (*corev1.Pod, error) {
	if !m.Planned() || m.Status.Result != v1alpha1.ResultWithdrawn {
		return d.successor(ctx, m)
	}
	pod, err := d.readPod(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Spec.Pod.Name})
	if err != nil || pod == nil || pod.UID != m.LostPod() {
		return nil, err
	}
	return pod, nil
}

// maxNote is the API server's limit of an event's note, in bytes.
const maxNote = 1024

// cut shortens a note to what the API server takes, and not within a letter.
func cut(text string) string {
	if len(text) <= maxNote {
		return text
	}
	const dots = "..."
	return strings.ToValidUTF8(text[:maxNote-len(dots)], "") + dots
}

// eventName is the name of the one event of a kind about an object. A long name is
// cut; the UID keeps it apart from the others.
func eventName(name, kind, uid string) string {
	suffix := "." + kind + "." + uid
	const longest = 253
	if len(name)+len(suffix) > longest {
		name = strings.TrimRight(name[:longest-len(suffix)], "-.")
	}
	return name + suffix
}

// tellHold tells when a Migration begins to be held, or for another reason.
func (d *Driver) tellHold(before, m *v1alpha1.Migration) {
	held := m.Status.Held
	if held == nil || before.Status.Held != nil && before.Status.Held.Reason == held.Reason {
		return
	}
	d.Events.Eventf(m, nil, corev1.EventTypeWarning, "RecoveryHeld", "Recover", "Nothing is done (%s): %s.", held.Reason, held.Message)
}

// forgetManifest drops what a bare pod's successor was created from: it may hold
// what not everybody who reads Migrations should read.
func (d *Driver) forgetManifest(ctx context.Context, m *v1alpha1.Migration) error {
	if m.Annotations[annotationManifest] == "" {
		return nil
	}
	without := m.DeepCopy()
	delete(without.Annotations, annotationManifest)
	if err := d.Client.Patch(ctx, without, client.MergeFrom(m), fieldOwner); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("drop the pod's manifest from migration %s/%s: %w", m.Namespace, m.Name, err)
	}
	return nil
}
