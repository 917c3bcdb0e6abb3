package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
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
// The ones that another process has kept are passed over.
func (a *Agent) killUndrained(ctx context.Context, kept map[string]bool) {
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
		if err == nil && kept[c.ID] {
			continue
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

// spoil ends a restore whose memory cannot be had any more. The pod's restored
// containers are killed: none may go on with zeros in the place of what is missing,
// nor beside others of another moment. Their kubelet creates them again, and they
// are restored again, from the next older generation. r.mu is held.
func (a *Agent) spoil(ctx context.Context, r *restore, f *filling, cause error) {
	message := fmt.Sprintf("generation %d could not be restored in full: memory of container %s is missing: %v", r.opened.number, f.container.Name, cause)
	a.history.failed(time.Now(), v1alpha1.ReasonCheckpointDamaged)
	r.spoiled[r.opened.number] = message
	r.status.Skipped = append(r.status.Skipped, v1alpha1.SkippedGeneration{Generation: r.opened.number, Reason: message})
	for _, entry := range r.status.Containers {
		if entry.Result != v1alpha1.ResultRestored {
			continue
		}
		c, err := a.containerOf(f.container, entry.Name)
		if err == nil {
			err = a.killContainer(ctx, c)
		}
		if err != nil {
			a.log.Error("kill a container whose memory has holes", "container", entry.Name, "err", err)
		}
	}
	for name, other := range r.filling {
		other.stop()
		delete(r.filling, name)
	}
	pod := &corev1.Pod{}
	if err := a.cache.Get(ctx, ctrlclient.ObjectKey{Namespace: f.container.Namespace, Name: f.container.PodName}, pod); err == nil {
		a.recorder.Event(pod, corev1.EventTypeWarning, "LifeboatRestoreFailed", message)
	}
	r.close(a.log)
	r.prepared, r.dir = false, ""
	clear(r.asked)
	r.status.Containers, r.status.Generation, r.status.TakenAt = nil, 0, nil
	r.status.Attempts = max(r.status.Attempts, 1) + 1
	a.reportRestore(ctx, r.migration, *r.status.DeepCopy())
}

// containerOf is the ID of another container of a pod.
func (a *Agent) containerOf(c client.Container, name string) (string, error) {
	if c.Name == name {
		return c.ID, nil
	}
	entries, err := os.ReadDir(client.ContainersFolder)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		var registered client.Registration
		raw, err := os.ReadFile(filepath.Join(client.ContainersFolder, entry.Name()))
		if err == nil {
			err = json.Unmarshal(raw, &registered)
		}
		if err == nil && registered.PodUID == c.PodUID && registered.Name == name && registered.Restored {
			return registered.ID, nil
		}
	}
	return "", fmt.Errorf("no restored container %s of pod %s/%s is registered", name, c.Namespace, c.PodName)
}

// killContainer kills a restored container, and removes what its restore has made
// in the pod's IPC namespace.
func (a *Agent) killContainer(ctx context.Context, id string) error {
	pid, err := initPid(a.host, id)
	if err != nil {
		return err
	}
	group, err := cgroup.ForProcess(a.host.ProcRoot, filepath.Join(a.host.Root, "sys/fs/cgroup"), pid)
	if err != nil {
		return fmt.Errorf("find the cgroup of container %s: %w", id, err)
	}
	made, ipcErr := a.findIPC(id, pid)
	if ipcErr == nil {
		defer made.close()
	}
	if err := group.Kill(ctx); err != nil {
		return err
	}
	if ipcErr == nil {
		ipcErr = made.remove()
	}
	if ipcErr != nil {
		return fmt.Errorf("container %s is killed, and the System V objects that its restore has made are left: %w", id, ipcErr)
	}
	return nil
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
		if len(r.filling) == 0 {
			a.discard(uid, r)
		}
		r.mu.Unlock()
	}
}

// reportRestore writes the restore part of a Migration's status. A failure is
// logged: the restore itself does not depend on it, and the next report has
// everything again.
func (a *Agent) reportRestore(ctx context.Context, m *v1alpha1.Migration, status v1alpha1.RestoreStatus) {
	if current := a.cachedMigration(ctx, m); current != nil && current.Status.Claim != nil && !current.ClaimedBy(status.PodUID) {
		return // the pod was deleted, and what is told is another one's
	}
	if _, err := a.patchRestore(ctx, m, status); err != nil {
		a.log.Error("report the restore", "migration", m.Namespace+"/"+m.Name, "err", err)
	}
}

// patchRestore returns the Migration as it is then.
func (a *Agent) patchRestore(ctx context.Context, m *v1alpha1.Migration, status v1alpha1.RestoreStatus) (*v1alpha1.Migration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	patch, err := restorePatch(m, status)
	if err != nil {
		return nil, err
	}
	target := &v1alpha1.Migration{}
	target.Namespace, target.Name = m.Namespace, m.Name
	err = a.api.Status().Patch(ctx, target, ctrlclient.RawPatch(types.MergePatchType, patch), ctrlclient.FieldOwner("lifeboat-checkpointer"))
	return target, err
}

// restorePatch writes all of a restore's status: what it does not have any more
// is removed, as after a generation that turned out to be damaged. So is what is of
// another pod, which had the claim before.
func restorePatch(m *v1alpha1.Migration, status v1alpha1.RestoreStatus) ([]byte, error) {
	raw, err := json.Marshal(status)
	if err != nil {
		return nil, err
	}
	fields := map[string]any{"generation": nil, "takenAt": nil, "containers": nil, "skipped": nil, "attempts": nil, "holding": nil, "connections": nil}
	if before := m.Status.Restore; before != nil && before.PodUID != status.PodUID {
		fields["parkedAt"], fields["committedAt"], fields["hooks"] = nil, nil, nil
	}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	if before := m.Status.Restore; before != nil && before.PodUID != status.PodUID {
		if connections, ok := fields["connections"].(map[string]any); ok {
			for _, field := range []string{"openedAt", "endedAt", "message"} {
				if _, set := connections[field]; !set {
					connections[field] = nil
				}
			}
		}
	}
	return json.Marshal(map[string]any{"status": map[string]any{"restore": fields}})
}
