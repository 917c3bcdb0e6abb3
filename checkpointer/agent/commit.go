package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// errGivenUp means that a move was given up before its pod was stopped.
var errGivenUp = errors.New("the move was given up before the pod was stopped")

// commitRestore writes into the Migration that the claim's pod is about to have processes
// of its state, and when, or says why it must not. Somebody may have deleted the pod: the
// watcher then takes the claim from it, and gives the state to the owner's next pod.
// Whichever of the two writes comes first stands.
func (a *Agent) commitRestore(ctx context.Context, m *v1alpha1.Migration, status v1alpha1.RestoreStatus) (at *metav1.MicroTime, refused string) {
	if status.CommittedAt != nil {
		return status.CommittedAt, "" // for another container of the pod
	}
	now := metav1.NewMicroTime(time.Now().Truncate(time.Microsecond)) // as it is written
	status.CommittedAt = &now
	current := m
	err := patiently(ctx, func(ctx context.Context) error {
		for {
			if current.UID != m.UID || !current.Open() || !current.ClaimedBy(status.PodUID) {
				refused = fmt.Sprintf("the claim on migration %s was taken from its pod: another one has its state", m.Name)
				return nil
			}
			if current.Clones() && current.Withdrawing() {
				refused = fmt.Sprintf("migration %s, by which its pod was to start, is given up: %s", m.Name, current.Status.Message)
				return nil
			}
			err := a.patchCommitted(ctx, current, status)
			if !apierrors.IsConflict(err) {
				return err
			}
			seen := &v1alpha1.Migration{}
			if err := a.api.Get(ctx, ctrlclient.ObjectKeyFromObject(m), seen); err != nil {
				return err
			}
			current = seen
		}
	})
	if err != nil {
		refused = fmt.Sprintf("the API does not take that migration %s is restored: %v", m.Name, err)
	}
	return &now, refused
}

// patchCommitted writes the moment at which a restore is committed, where it is, and of a
// state that is staged all else. It fails with a conflict when the Migration is not the one that was seen.
func (a *Agent) patchCommitted(ctx context.Context, seen *v1alpha1.Migration, status v1alpha1.RestoreStatus) error {
	restore := map[string]any{"podUID": status.PodUID, "startedAt": status.StartedAt, "committedAt": status.CommittedAt}
	if seen.Staged() { // all that there is to tell
		restore["hooks"], restore["containers"], restore["attempts"] = status.Hooks, status.Containers, status.Attempts
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": seen.UID, "resourceVersion": seen.ResourceVersion},
		"status":   map[string]any{"restore": restore},
	})
	if err != nil {
		return err
	}
	target := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: seen.Namespace, Name: seen.Name}}
	return a.api.Status().Patch(ctx, target, ctrlclient.RawPatch(types.MergePatchType, patch), ctrlclient.FieldOwner("lifeboat-checkpointer"))
}

// beginStop writes into a planned move that its pod is about to be stopped, unless the move
// is given up. The watcher gives up one whose source stays silent; whichever of the two
// writes comes first stands.
func (a *Agent) beginStop(ctx context.Context, m *v1alpha1.Migration) error {
	current := m
	return patiently(ctx, func(ctx context.Context) error {
		for {
			if current.UID != m.UID || !current.Open() || current.Status.Reason != "" {
				return errGivenUp
			}
			patch, err := json.Marshal(map[string]any{
				"metadata": map[string]any{"uid": current.UID, "resourceVersion": current.ResourceVersion},
				"status":   map[string]any{"source": map[string]any{"beganAt": metav1.NewMicroTime(time.Now())}},
			})
			if err != nil {
				return err
			}
			target := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name}}
			err = a.api.Status().Patch(ctx, target, ctrlclient.RawPatch(types.MergePatchType, patch), ctrlclient.FieldOwner("lifeboat-checkpointer"))
			if !apierrors.IsConflict(err) {
				return err
			}
			seen := &v1alpha1.Migration{}
			if err := a.api.Get(ctx, ctrlclient.ObjectKeyFromObject(m), seen); err != nil {
				return err
			}
			current = seen
		}
	})
}

// abandon ends a restore that was readied and must not be. r.mu is held.
func (a *Agent) abandon(req client.CreateRequest, r *restore) {
	if filling := r.filling[req.Name]; filling != nil {
		filling.stop()
		delete(r.filling, req.Name)
	}
	if r.dir != "" {
		if err := a.engine.CleanRestore(r.dir, req.Name); err != nil {
			a.log.Warn("clean up after a restore that was not to be", "container", req.Name, "err", err)
		}
	}
	a.dismissGuest(r, "")
	a.discard(req.PodUID, r)
}
