package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
)

const (
	// askTimeout bounds one question to the API that a container's creation waits for.
	askTimeout = 2 * time.Second
	// askPatience is how long such a question is asked again. kubelet asks for a
	// container that was refused again too, but each time later, up to five minutes.
	askPatience = 30 * time.Second
	// askAgain is how long to wait in between.
	askAgain = 250 * time.Millisecond
)

// patiently asks the API until it answers, for askPatience. That there is no such
// object is an answer.
func patiently(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	for {
		err := once(ctx, ask)
		if err == nil || apierrors.IsNotFound(err) || errors.Is(err, errGivenUp) {
			return err
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return err
		}
	}
}

func once(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return ask(ctx)
}

// permissionTime is how long a container waits for the node's permission, which is
// out for a moment after a stall or a boot. kubelet tries again, but ten seconds later.
const permissionTime = 5 * time.Second

// awaitPermission waits until a container that was registered under an epoch may be
// created, and says why it may not, or "".
func (a *Agent) awaitPermission(ctx context.Context, epoch int64) (refused string) {
	ctx, cancel := context.WithTimeout(ctx, permissionTime)
	defer cancel()
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for {
		state, found, err := fence.ReadState(client.Folder)
		if err != nil {
			a.log.Error("read what the fencer published", "err", err)
		}
		refused := mayNotRun(epoch, state, found && err == nil, fence.Now())
		if refused == "" || epoch < state.Epoch {
			return refused
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return refused
		}
	}
}

// mayNotRun says why a container that was registered under an epoch must not be
// created on a node whose fencer has published state, or "". Found is whether it has
// published any.
func mayNotRun(epoch int64, state fence.State, found bool, now fence.Instant) string {
	switch {
	case !found:
		return "the node's fencer has not read the node's Fence yet"
	case epoch < state.Epoch:
		return fmt.Sprintf("it was begun in epoch %d, and the node is in epoch %d since it was fenced", epoch, state.Epoch)
	case !state.Permits(now):
		return "the node may not run protected pods at present; its Fence says why"
	}
	return ""
}

// owned returns the pod of a container as the API has it, and why it is not this
// node's any more, or "". A node that comes back from a partition can learn late
// that its pods were moved: its kubelet would start the containers again that the
// fencer has just killed, and they would run twice.
//
// When the API does not answer the pod is nil, and the container may start only if
// the API has said before, in the node's present epoch, that the pod is this node's:
// while its peers vouch for the node, nothing else would stop a moved pod.
func (a *Agent) owned(ctx context.Context, c client.Container, epoch int64) (pod *corev1.Pod, disowned string) {
	pod = &corev1.Pod{}
	ask := func(ctx context.Context) error {
		return a.api.Get(ctx, ctrlclient.ObjectKey{Namespace: c.Namespace, Name: c.PodName}, pod)
	}
	confirmed := a.confirmed.has(c.PodUID, epoch)
	attempt := patiently
	if confirmed {
		attempt = once
	}
	err := attempt(ctx, ask)
	if err != nil && !apierrors.IsNotFound(err) {
		a.log.Warn("look up the pod of a container", "pod", c.Namespace+"/"+c.PodName, "err", err)
		if !confirmed {
			return nil, "the API does not say whether its pod still belongs to this node"
		}
		return nil, ""
	}
	why := disowns(pod, err == nil, c.PodUID, a.cfg.NodeName)
	if why == "" && !isClone(pod) { // a clone may not start by this alone, see confirmRestored
		if err := a.confirmed.add(c.PodUID, epoch); err != nil {
			a.log.Warn("note down that a pod is this node's; its containers cannot start again while the API is down", "pod", c.Namespace+"/"+c.PodName, "err", err)
		}
	}
	return pod, why
}

// confirmRestored notes that a clone, whose restore is long over, is this node's as any
// other pod.
func (a *Agent) confirmRestored(pod *corev1.Pod, req client.CreateRequest) {
	if !isClone(pod) {
		return
	}
	if err := a.confirmed.add(req.PodUID, req.Epoch); err != nil {
		a.log.Warn("note down that a clone is this node's", "pod", req.Namespace+"/"+req.PodName, "err", err)
	}
}

// disowns says why the pod that the API has, if it exists, shows that a pod of
// the same name with the given UID may not run on a node any more, or "". The
// API's copy of a static pod has a UID of its own.
func disowns(pod *corev1.Pod, exists bool, uid, node string) string {
	switch {
	case !exists:
		return "its pod was deleted"
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return ""
	case string(pod.UID) != uid:
		return fmt.Sprintf("its pod was replaced by another of the same name, on node %s", pod.Spec.NodeName)
	case pod.Spec.NodeName != node:
		return "its pod belongs to node " + pod.Spec.NodeName
	}
	return ""
}

// confirmations are the pods that the API said are this node's, in which epoch of
// the node. They end with the boot, and outlive the agent.
type confirmations struct {
	path string

	mu   sync.Mutex
	pods map[string]int64 // epochs by pod UID
	// withheld are pods, by UID, that are not confirmed whatever the API says of them:
	// they are about to run elsewhere, or do yet.
	withheld map[string]bool
}

// openConfirmations goes on with what an earlier agent of this boot noted. Its error
// does not keep it from being usable.
func openConfirmations(path string) (*confirmations, error) {
	c := &confirmations{path: path, pods: map[string]int64{}, withheld: map[string]bool{}}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &c.pods)
	}
	if err != nil || c.pods == nil {
		c.pods = map[string]int64{}
		return c, fmt.Errorf("read which pods were confirmed as this node's: %w", err)
	}
	return c, nil
}

func (c *confirmations) has(podUID string, epoch int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	confirmed, ok := c.pods[podUID]
	return ok && confirmed == epoch
}

func (c *confirmations) add(podUID string, epoch int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if confirmed, ok := c.pods[podUID]; ok && confirmed == epoch || c.withheld[podUID] {
		return nil
	}
	c.pods[podUID] = epoch
	return c.save()
}

// withhold takes back that a pod is this node's, until allow: none of its containers
// starts while the checkpointer or the API is not there to be asked. After an error one
// may.
func (c *confirmations) withhold(podUID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.withheld[podUID] = true
	if _, confirmed := c.pods[podUID]; !confirmed {
		return nil
	}
	delete(c.pods, podUID)
	return c.save()
}

// allow ends withhold. The API's next word about the pod counts.
func (c *confirmations) allow(podUID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.withheld, podUID)
}

// keep forgets the pods that are not on the node any more.
func (c *confirmations) keep(here func(podUID string) bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.withheld, func(podUID string, _ bool) bool { return !here(podUID) })
	before := len(c.pods)
	maps.DeleteFunc(c.pods, func(podUID string, _ int64) bool { return !here(podUID) })
	if len(c.pods) == before {
		return nil
	}
	return c.save()
}

// save replaces the file in one step. It lies on a tmpfs. c.mu is held.
func (c *confirmations) save() error {
	content, err := json.Marshal(c.pods)
	if err != nil {
		return err
	}
	next := c.path + ".next"
	if err := os.WriteFile(next, content, 0o600); err != nil {
		return err
	}
	return os.Rename(next, c.path)
}
