package migrate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

const (
	// ownTaint is the value of the out-of-service taint where Lifeboat has set it. One
	// with another value is somebody else's, and is never removed.
	ownTaint = "lifeboat"
	// lookAtVolumes is how often a node is looked at while volumes of recovered pods are
	// attached to it, or while it has the taint.
	lookAtVolumes = 2 * time.Second
)

// volumesHeld are the nodes whose volumes are not detached, each with what was told.
type volumesHeld struct {
	mu   sync.Mutex
	told map[string]string
}

// set notes what is told of a node, nothing if nothing is held there. It returns
// whether that is new, and how many nodes there are.
func (v *volumesHeld) set(node, text string) (isNew bool, nodes int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	isNew = text != "" && v.told[node] != text
	delete(v.told, node)
	if text != "" {
		if v.told == nil {
			v.told = map[string]string{}
		}
		v.told[node] = text
	}
	return isNew, len(v.told)
}

// detachVolumes lets Kubernetes detach the volumes of recovered pods from a fenced
// node, by the taint node.kubernetes.io/out-of-service. Kubernetes then deletes every
// pod of the node by force, also those that Lifeboat did not stop; so where one of
// them could be harmed, it only says what an operator has to do. See
// docs/adr/0012-out-of-service-taint.md. It returns when to look again.
func (d *Driver) detachVolumes(ctx context.Context, fenced decide.Fenced) (time.Duration, error) {
	name := fenced.Node()
	attached, volumes, err := d.volumesOn(ctx, name)
	if err != nil || len(attached) == 0 {
		d.keepVolumes(ctx, name, "")
		return 0, err
	}
	if len(volumes) == 0 {
		d.keepVolumes(ctx, name, "")
		return lookAtVolumes, nil
	}
	node := &corev1.Node{}
	if err := d.Client.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
		return 0, client.IgnoreNotFound(err) // its volumes are detached with its Node object
	}
	if taintOf(node) != nil || nodeReady(node) {
		d.keepVolumes(ctx, name, "")
		return lookAtVolumes, nil // it is done already, or the kubelet does it
	}
	if fenced.Proof() == v1alpha1.ProofWaited || fenced.Proof() == "" {
		harmed, err := d.harmedByTaint(ctx, name)
		if err != nil {
			return 0, err
		}
		if len(harmed) > 0 {
			d.keepVolumes(ctx, name, fmt.Sprintf("Volumes of recovered pods stay attached to the node (%s), because pods that Lifeboat did not stop could run "+
				"twice if they were detached: %s. Once the node is surely powered off: kubectl taint node %s %s=nodeshutdown:NoExecute",
				strings.Join(volumes, ", "), strings.Join(harmed, ", "), name, corev1.TaintNodeOutOfService))
			return lookAtVolumes, nil
		}
	}
	d.keepVolumes(ctx, name, "")
	before := node.DeepCopy()
	now := metav1.Now()
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{
		Key: corev1.TaintNodeOutOfService, Value: ownTaint, Effect: corev1.TaintEffectNoExecute, TimeAdded: &now,
	})
	if err := d.Client.Patch(ctx, node, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), fieldOwner); err != nil {
		return 0, fmt.Errorf("taint node %s: %w", name, err)
	}
	d.Log.Info("node is tainted out-of-service", "node", name, "volumes", volumes)
	d.nodeEvent(ctx, name, corev1.EventTypeNormal, "OutOfService",
		"The node is fenced and tainted %s, so that volumes of recovered pods are detached: %s.", corev1.TaintNodeOutOfService, strings.Join(volumes, ", "))
	return lookAtVolumes, nil
}

// keepVolumes tells why volumes stay attached to a node, when that is new.
func (d *Driver) keepVolumes(ctx context.Context, node, text string) {
	isNew, nodes := d.kept.set(node, text)
	d.Metrics.VolumesHeld(nodes)
	if isNew {
		d.Log.Warn("volumes of recovered pods stay attached", "node", node, "reason", text)
		d.nodeEvent(ctx, node, corev1.EventTypeWarning, "VolumesHeld", "%s", cut(text))
	}
}

// readmit takes Lifeboat's out-of-service taint off a node that is back and clean:
// the node itself says that its old copies were killed, it is Ready in this very boot,
// and no volume of a recovered pod is attached to it any more. It returns when to look
// again.
func (d *Driver) readmit(ctx context.Context, fence *v1alpha1.Fence) (time.Duration, error) {
	node := &corev1.Node{}
	if err := d.Client.Get(ctx, client.ObjectKey{Name: fence.Name}, node); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if taint := taintOf(node); taint == nil || taint.Value != ownTaint {
		return 0, nil
	}
	if !nodeReady(node) || fence.Spec.BootID != node.Status.NodeInfo.BootID || !d.nodes.alive(fence.Name, time.Now()) {
		return lookAtVolumes, nil
	}
	if _, volumes, err := d.volumesOn(ctx, fence.Name); err != nil || len(volumes) > 0 {
		return lookAtVolumes, err
	}
	before := node.DeepCopy()
	node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeOutOfService && t.Value == ownTaint
	})
	if err := d.Client.Patch(ctx, node, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), fieldOwner); err != nil {
		return 0, fmt.Errorf("take the taint off node %s: %w", fence.Name, err)
	}
	d.Log.Info("node is back in service", "node", fence.Name)
	d.nodeEvent(ctx, fence.Name, corev1.EventTypeNormal, "InService", "The node is back and clean; its taint %s was removed.", corev1.TaintNodeOutOfService)
	return 0, nil
}

func taintOf(node *corev1.Node) *corev1.Taint {
	for i := range node.Spec.Taints {
		if node.Spec.Taints[i].Key == corev1.TaintNodeOutOfService {
			return &node.Spec.Taints[i]
		}
	}
	return nil
}

func nodeReady(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// volumesOn are the persistent volumes that are attached to a node. Needed are those
// of them that a protected pod elsewhere, or one without a node yet, waits for; sorted.
func (d *Driver) volumesOn(ctx context.Context, node string) (attached map[string]bool, needed []string, err error) {
	var attachments storagev1.VolumeAttachmentList
	if err := d.Client.List(ctx, &attachments, client.UnsafeDisableDeepCopy); err != nil {
		return nil, nil, fmt.Errorf("list volume attachments: %w", err)
	}
	attached = map[string]bool{}
	for i := range attachments.Items {
		spec := &attachments.Items[i].Spec
		if volume := spec.Source.PersistentVolumeName; spec.NodeName == node && volume != nil {
			attached[*volume] = true
		}
	}
	if len(attached) == 0 {
		return nil, nil, nil
	}
	var pods corev1.PodList
	if err := d.Client.List(ctx, &pods, client.UnsafeDisableDeepCopy); err != nil {
		return nil, nil, fmt.Errorf("list pods: %w", err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Spec.NodeName == node || !protected(pod) || !movable(pod) || ready(pod) {
			continue // what is Ready has its volumes
		}
		for _, name := range claims(pod) {
			claim := &corev1.PersistentVolumeClaim{}
			key := client.ObjectKey{Namespace: pod.Namespace, Name: name}
			if err := d.Reader.Get(ctx, key, claim); client.IgnoreNotFound(err) != nil {
				return nil, nil, fmt.Errorf("read persistent volume claim %s: %w", key, err)
			}
			if attached[claim.Spec.VolumeName] {
				needed = append(needed, claim.Spec.VolumeName)
			}
		}
	}
	slices.Sort(needed)
	return attached, slices.Compact(needed), nil
}

// claims are the names of the persistent volume claims that a pod uses.
func claims(pod *corev1.Pod) []string {
	var names []string
	for _, volume := range pod.Spec.Volumes {
		switch {
		case volume.PersistentVolumeClaim != nil:
			names = append(names, volume.PersistentVolumeClaim.ClaimName)
		case volume.Ephemeral != nil:
			names = append(names, pod.Name+"-"+volume.Name)
		}
	}
	return names
}

// harmedByTaint are the pods of a node that could run twice if Kubernetes deleted them
// by force while the node is only cut off: those of StatefulSets, whose successors have
// the same identity, and those with a volume that only one node may have. Protected
// ones are fenced, and what belongs to the node is not created elsewhere.
func (d *Driver) harmedByTaint(ctx context.Context, node string) ([]string, error) {
	var pods corev1.PodList
	if err := d.Reader.List(ctx, &pods, client.MatchingFields{"spec.nodeName": node}); err != nil {
		return nil, fmt.Errorf("list pods of node %s: %w", node, err)
	}
	var harmed []string
	for i := range pods.Items {
		pod := &pods.Items[i]
		if protected(pod) || !movable(pod) {
			continue
		}
		why := ""
		if owner := metav1.GetControllerOf(pod); owner != nil && owner.Kind == "StatefulSet" {
			why = "StatefulSet " + owner.Name
		}
		for _, name := range claims(pod) {
			single, err := d.singleNode(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: name})
			if err != nil {
				return nil, err
			}
			if single {
				why = "volume claim " + name
			}
		}
		if why != "" {
			harmed = append(harmed, fmt.Sprintf("%s/%s (%s)", pod.Namespace, pod.Name, why))
		}
	}
	slices.Sort(harmed)
	return harmed, nil
}

// singleNode says whether the volume of a claim may be used on one node at a time
// only. One that cannot be found counts as such.
func (d *Driver) singleNode(ctx context.Context, key client.ObjectKey) (bool, error) {
	claim := &corev1.PersistentVolumeClaim{}
	if err := d.Reader.Get(ctx, key, claim); err != nil {
		if client.IgnoreNotFound(err) != nil {
			return false, fmt.Errorf("read persistent volume claim %s: %w", key, err)
		}
		return true, nil
	}
	return slices.ContainsFunc(claim.Spec.AccessModes, func(mode corev1.PersistentVolumeAccessMode) bool {
		return mode == corev1.ReadWriteOnce || mode == corev1.ReadWriteOncePod
	}), nil
}
