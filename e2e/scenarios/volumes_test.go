package scenarios

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
)

// TestMoveWithAVolume moves redis that appends everything to a file on a persistent
// volume, which every node reaches. There is never more than one running process that has
// the volume; and what is in memory afterwards is what is in the file.
func TestMoveWithAVolume(t *testing.T) {
	namespace := scene(t, "volume")
	loadRedis(t)
	tests := map[string]struct {
		strategy v1alpha1.Strategy
		mode     corev1.PersistentVolumeAccessMode
	}{
		// The new pod waits beside the old one, with the same volume.
		"live-many": {v1alpha1.StrategyLive, corev1.ReadWriteMany},
		"live-once": {v1alpha1.StrategyLive, corev1.ReadWriteOnce},
		"cold-once": {v1alpha1.StrategyCold, corev1.ReadWriteOnce},
	}
	instances, moves := map[string]*instance{}, map[string]*v1alpha1.Migration{}
	for name, test := range tests {
		pod := redisNamed(namespace, name)
		container := &pod.Spec.Containers[0]
		container.Args = append(container.Args, "--appendonly", "yes", "--appendfsync", "always")
		pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{PersistentVolumeClaim: claimVolume(t, namespace, name, test.mode)}
		create(t, deploymentOf(pod))
	}
	for name := range tests {
		instances[name] = inUse(t, namespace, name)
		fill(t, connect(t, instances[name].pod))
	}
	together := watchVolumes(t, instances)
	for name, test := range tests {
		moves[name] = beginMove(t, instances[name].pod, test.strategy)
	}
	for name := range tests {
		closed(t, moves[name])
	}
	seen := together()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m, i := moves[name], instances[name]
			t.Logf("%s from %s: %s, released %t, downtime %s; %d looks at who has the volume", m.Name, m.Spec.SourceNode, m.Status.Result, m.Released(), m.Status.Downtime, len(seen[name]))
			if m.Status.Result != v1alpha1.ResultRestored || m.Status.RPOSeconds != 0 || m.Released() != (test.mode == corev1.ReadWriteMany) {
				t.Errorf("the move ended as %s, RPO %s, released %t: %s: %s", m.Status.Result, m.Status.RPO, m.Released(), m.Status.Reason, m.Status.Message)
			}
			if n := seen[name].overlaps(); n > 0 || len(seen[name]) < 10 {
				t.Errorf("at %d of %d looks two running processes had the volume: %v", n, len(seen[name]), seen[name])
			}
			now := i.checkOne(t, time.Now())
			if now.Spec.NodeName == i.pod.Spec.NodeName {
				t.Errorf("it is on node %s still", now.Spec.NodeName)
			}
			conn := connect(t, now)
			if answer := command[string](t, conn, "SET", "after", "the move"); answer != "OK" {
				t.Errorf("redis answers a write with %q", answer)
			}
			memory := command[string](t, conn, "DEBUG", "DIGEST")
			if answer := command[string](t, conn, "DEBUG", "LOADAOF"); answer != "OK" {
				t.Fatalf("redis answers DEBUG LOADAOF with %q", answer)
			}
			if file := command[string](t, conn, "DEBUG", "DIGEST"); file != memory {
				t.Errorf("the digest of the file on the volume is %s, of what was in memory %s", file, memory)
			}
			if size := command[int64](t, conn, "DBSIZE"); size != redisKeys+2 {
				t.Errorf("redis holds %d keys, and held %d", size, redisKeys+2)
			}
		})
	}
}

// claimVolume makes a volume that every node reaches, and a claim that it belongs to.
func claimVolume(t *testing.T, namespace, name string, mode corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaimVolumeSource {
	t.Helper()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{mode}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: namespace + "-" + name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			ClaimRef: &corev1.ObjectReference{Namespace: namespace, Name: name},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{
				Path: path.Join(cluster.SharedFolder, namespace, name), Type: ptr.To(corev1.HostPathDirectoryOrCreate)}},
		},
	}
	create(t, volume, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, StorageClassName: ptr.To(""), VolumeName: volume.Name,
			Resources: corev1.VolumeResourceRequirements{Requests: size}},
	})
	t.Cleanup(func() { _ = api.Delete(context.Background(), volume) })
	return &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}
}

// runningWith prints, for each process that is not frozen and has a volume of the
// namespace mounted for writing, the volume's name.
const runningWith = `for p in /proc/[0-9]*; do
	[ "$(cat $p/comm 2>/dev/null)" = redis-server ] || continue
	name=$(sed -n 's|^[^ ]* [^ ]* [^ ]* [^ ]*/%s/\([^ /]*\) /data rw.*|\1|p' $p/mountinfo 2>/dev/null)
	[ -n "$name" ] || continue
	group=$(sed -n 's|^0::||p; s|^[0-9]*:freezer:||p' $p/cgroup | tail -n 1)
	cat /sys/fs/cgroup/freezer$group/freezer.state /sys/fs/cgroup$group/cgroup.events 2>/dev/null | grep -qx -e FROZEN -e 'frozen 1' || echo $name
done; true`

// looks are which nodes had a running process with a volume, look by look. Within one look
// the nodes are asked one after the other, in the order of their names.
type looks [][]string

// overlaps counts the looks by which two nodes had such a process at the same time: one
// node before and after another was asked.
func (l looks) overlaps() (n int) {
	for k := 1; k < len(l); k++ {
		for _, node := range l[k] {
			if !slices.Contains(l[k-1], node) {
				continue
			}
			later := slices.ContainsFunc(l[k-1], func(other string) bool { return other > node })
			earlier := slices.ContainsFunc(l[k], func(other string) bool { return other < node })
			if later || earlier {
				n++
			}
		}
	}
	return n
}

// watchVolumes looks again and again on which nodes a process that runs has an instance's
// volume. The returned function ends that, and tells what was seen.
func watchVolumes(t *testing.T, instances map[string]*instance) (end func() map[string]looks) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	seen, ended := map[string]looks{}, make(chan error, 1)
	namespace := ""
	for _, i := range instances {
		namespace = i.pod.Namespace
	}
	script := fmt.Sprintf(runningWith, namespace)
	look := func() error {
		out, err := onEveryNode(ctx, script)
		if err != nil {
			return err
		}
		for name := range instances {
			var nodes []string
			for _, node := range slices.Sorted(maps.Keys(out)) {
				if slices.Contains(strings.Fields(out[node]), name) {
					nodes = append(nodes, node)
				}
			}
			seen[name] = append(seen[name], nodes)
		}
		return nil
	}
	if err := look(); err != nil {
		t.Fatal(err)
	}
	for name, l := range seen {
		if node := instances[name].pod.Spec.NodeName; !slices.Equal(l[0], []string{node}) {
			t.Fatalf("the volume of %s is in use on nodes %v, and not on %s alone", name, l[0], node)
		}
	}
	go func() {
		for ctx.Err() == nil {
			if err := look(); err != nil && ctx.Err() == nil {
				ended <- err
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
		ended <- nil
	}()
	return func() map[string]looks {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		return seen
	}
}
