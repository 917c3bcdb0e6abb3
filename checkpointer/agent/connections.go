package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/hold"
)

const (
	// lookAtHeldEvery is how often it is looked whether a pod still needs its holder.
	lookAtHeldEvery = time.Second
	// heldAfter is how long after its move a pod's connections may still come by way of its
	// holder: longer than the watcher has them led there.
	heldAfter = time.Minute
	// addressTimeout bounds the question for a sandbox's addresses.
	addressTimeout = 5 * time.Second
)

// connections are those that are held for pods of this node. The zero value is ready.
type connections struct {
	mu   sync.Mutex
	pods map[string]*heldPod // by UID
}

// heldPod is what is held for one pod, in one sandbox of it. Without a holder nothing could be.
type heldPod struct {
	*hold.Holder
	sandbox string
	told    *v1alpha1.Holding
}

func (c *connections) of(podUID string) *heldPod {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pods[podUID]
}

// set notes what is held for a pod, and ends what was before; nil is nothing.
func (c *connections) set(podUID string, next *heldPod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if before := c.pods[podUID]; before != nil && before.Holder != nil {
		before.Close()
	}
	if c.pods == nil {
		c.pods = map[string]*heldPod{}
	}
	c.pods[podUID] = next
	if next == nil {
		delete(c.pods, podUID)
	}
}

// release leads a pod's connections on: its processes are back.
func (c *connections) release(podUID string) {
	if h := c.of(podUID); h != nil && h.Holder != nil {
		h.Release()
	}
}

// hold has connections wait for a pod that waits itself, where its Migration asks for it,
// and notes in its restore where. What goes wrong with it does not stop the move.
func (a *Agent) hold(ctx context.Context, r *restore, m *v1alpha1.Migration, pod *corev1.Pod, req client.CreateRequest) {
	ports := m.PortsToHold()
	if len(ports) == 0 || pod.Spec.HostNetwork {
		return
	}
	h := a.connections.of(req.PodUID)
	if h == nil || h.sandbox != req.SandboxID {
		var err error
		h = &heldPod{sandbox: req.SandboxID}
		if h.Holder, h.told, err = a.listen(ctx, pod, req, ports); err != nil {
			a.log.Warn("connections are not held", "pod", req.Namespace+"/"+req.PodName, "err", err)
		} else {
			a.log.Info("connections are held", "pod", req.Namespace+"/"+req.PodName, "ports", h.told.Ports)
			go a.endHeld(ctx, m, pod, h)
		}
		a.connections.set(req.PodUID, h)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Holding = h.told
}

// listen begins to hold connections in a pod's network.
func (a *Agent) listen(ctx context.Context, pod *corev1.Pod, req client.CreateRequest, ports []int32) (*hold.Holder, *v1alpha1.Holding, error) {
	ips, err := a.runtime.podIPs(ctx, req.SandboxID)
	if err != nil {
		return nil, nil, err
	}
	netNS, err := a.networkOf(req.Bundle)
	if err != nil {
		return nil, nil, err
	}
	var avoid []int32
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for _, port := range containers[i].Ports {
				avoid = append(avoid, port.ContainerPort)
			}
		}
	}
	holder, err := hold.Listen(hold.Config{NetNS: netNS, PodIPs: ips, Ports: ports, Avoid: avoid}, a.log.With("pod", req.Namespace+"/"+req.PodName))
	if err != nil {
		return nil, nil, err
	}
	told, at := &v1alpha1.Holding{PodIPs: ips}, holder.Ports()
	for _, port := range ports {
		told.Ports = append(told.Ports, v1alpha1.HoldPort{Port: port, HoldPort: at[port]})
	}
	return holder, told, nil
}

// endHeld ends what is held for a pod: who comes and who waits, soon after its move and
// when the pod ends; everything when it is gone.
func (a *Agent) endHeld(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod, h *heldPod) {
	var over time.Time
	for {
		current := a.podHere(ctx, pod.Namespace, pod.Name, pod.UID)
		if current == nil || ctx.Err() != nil {
			h.Close()
			if a.connections.of(string(pod.UID)) == h {
				a.connections.set(string(pod.UID), nil)
			}
			return
		}
		migration := a.cachedMigration(ctx, m)
		if open := migration != nil && migration.Open(); !open && over.IsZero() {
			over = time.Now()
		}
		if current.DeletionTimestamp != nil || !over.IsZero() && time.Since(over) > heldAfter {
			h.Stop()
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookAtHeldEvery):
		}
	}
}

// tellParked reports that a pod waits, and where connections wait for it, unless the
// Migration says so already.
func (a *Agent) tellParked(ctx context.Context, r *restore, m, current *v1alpha1.Migration, status v1alpha1.RestoreStatus) {
	r.mu.Lock()
	status.Holding = r.status.Holding
	r.mu.Unlock()
	if !parked(current) || !equality.Semantic.DeepEqual(current.Status.Restore.Holding, status.Holding) {
		a.reportRestore(ctx, m, status)
	}
}

// podIPs are the addresses of a pod, as the container runtime gave them to its sandbox.
func (c *containers) podIPs(ctx context.Context, sandbox string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, addressTimeout)
	defer cancel()
	resp, err := c.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: sandbox})
	if err != nil {
		return nil, fmt.Errorf("ask for the addresses of sandbox %s: %w", sandbox, err)
	}
	network := resp.GetStatus().GetNetwork()
	if network.GetIp() == "" {
		return nil, fmt.Errorf("sandbox %s has no address of its own", sandbox)
	}
	ips := []string{network.Ip}
	for _, more := range network.AdditionalIps {
		ips = append(ips, more.Ip)
	}
	return ips, nil
}

// networkOf is the path of the network namespace that a container is to join, as this
// process sees it.
func (a *Agent) networkOf(bundle string) (string, error) {
	file := filepath.Join(a.host.Root, bundle, "config.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var config struct {
		Linux struct {
			Namespaces []struct {
				Kind string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	for _, ns := range config.Linux.Namespaces {
		if ns.Kind != "network" || ns.Path == "" {
			continue
		}
		if inProc, ok := strings.CutPrefix(ns.Path, "/proc/"); ok {
			return filepath.Join(a.host.ProcRoot, inProc), nil
		}
		return filepath.Join(a.host.Root, ns.Path), nil
	}
	return "", fmt.Errorf("%s names no network namespace", file)
}
