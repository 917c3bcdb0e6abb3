package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// restoreExpiry is how long a restore waits for containers that never ask.
const restoreExpiry = 5 * time.Minute

// drainingFile is in a container's restore folder while its pages are filled in.
// It names the container.
const drainingFile = "draining.json"

// markDraining notes that a container is about to run with pages missing.
func markDraining(dir string, c client.Container) error {
	raw, err := json.Marshal(c)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, drainingFile), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note that container %s is being filled in: %w", c.Name, err)
	}
	return nil
}

// killUndrained kills the containers whose page daemon ended with an earlier
// checkpointer of this boot: what was still missing then reads as zeros.
func (a *Agent) killUndrained(ctx context.Context) {
	marks, err := filepath.Glob(filepath.Join(restoreFolder, "*", "*", drainingFile))
	if err != nil {
		a.log.Error("look for containers that were being filled in", "err", err)
	}
	for _, mark := range marks {
		var c client.Container
		raw, err := os.ReadFile(mark)
		if err == nil {
			err = json.Unmarshal(raw, &c)
		}
		if err == nil {
			err = a.killContainer(ctx, c.ID)
		}
		log := a.log.With("pod", c.Namespace+"/"+c.PodName, "container", c.Name)
		if err != nil {
			log.Error("kill the container, whose memory has holes", "file", mark, "err", err)
			continue
		}
		log.Error("the page daemon ended with the earlier checkpointer; the container was killed because its memory has holes")
	}
}

// killHoled kills a container whose missing pages cannot be had any more, and
// says so: it must not go on with zeros in their place. r.mu is held.
func (a *Agent) killHoled(ctx context.Context, r *restore, c client.Container, cause error) {
	message := fmt.Sprintf("the page daemon of container %s failed before its memory was complete: %v", c.Name, cause)
	if err := a.killContainer(ctx, c.ID); err != nil {
		a.log.Error("kill container", "container", c.Name, "err", err)
	}
	for i := range r.status.Containers {
		if entry := &r.status.Containers[i]; entry.Name == c.Name {
			entry.Result, entry.Reason, entry.Message = v1alpha1.ResultColdStarted, v1alpha1.ReasonRestoreFailed, message
		}
	}
	a.reportRestore(ctx, r.migration, *r.status.DeepCopy())
	pod := &corev1.Pod{}
	if err := a.cache.Get(ctx, ctrlclient.ObjectKey{Namespace: c.Namespace, Name: c.PodName}, pod); err == nil {
		a.recorder.Event(pod, corev1.EventTypeWarning, "LifeboatRestoreFailed", message)
	}
}

func (a *Agent) killContainer(ctx context.Context, id string) error {
	pid, err := initPid(a.host, id)
	if err != nil {
		return err
	}
	group, err := cgroup.ForProcess(a.host.ProcRoot, filepath.Join(a.host.Root, "sys/fs/cgroup"), pid)
	if err != nil {
		return fmt.Errorf("find the cgroup of container %s: %w", id, err)
	}
	return group.Kill(ctx)
}

// expireRestores forgets restores that wait for a container that never asked.
func (a *Agent) expireRestores() {
	a.mu.Lock()
	old := map[string]*restore{}
	for uid, r := range a.restores {
		if time.Since(r.status.StartedAt.Time) > restoreExpiry {
			old[uid] = r
		}
	}
	a.mu.Unlock()
	for uid, r := range old {
		r.mu.Lock()
		if len(r.lazy) == 0 {
			a.discard(uid, r)
		}
		r.mu.Unlock()
	}
}

// reportRestore writes the restore part of a Migration's status. A failure is
// logged: the restore itself does not depend on it, and the next report has
// everything again.
func (a *Agent) reportRestore(ctx context.Context, m *v1alpha1.Migration, status v1alpha1.RestoreStatus) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	target := &v1alpha1.Migration{}
	target.Namespace, target.Name = m.Namespace, m.Name
	after := target.DeepCopy()
	after.Status.Restore = &status
	if err := a.api.Status().Patch(ctx, after, ctrlclient.MergeFrom(target), ctrlclient.FieldOwner("lifeboat-checkpointer")); err != nil {
		a.log.Error("report the restore", "migration", m.Namespace+"/"+m.Name, "err", err)
	}
}
