package migrate

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// guardTime is how long a node has to show that it lives. The recovery of a node
// that does not waits for it, so it is short: what answers at all is the node's
// kernel, and the fencer runs before everything else there.
const guardTime = 100 * time.Millisecond

// unguarded says why a silent node must not count as fenced although its wait is
// over, or "". The wait stands on the node's fencer: it stops the protected pods
// when their permission has run out. A node whose kubelet can be reached lives,
// and if its fencer does not answer, nothing may have stopped them.
func (d *Driver) unguarded(ctx context.Context, name string) string {
	ctx, cancel := context.WithTimeout(ctx, guardTime)
	defer cancel()
	kubelet, fencer, err := d.guardAddresses(ctx, name)
	if err != nil {
		d.Log.Info("a silent node cannot be looked at before it is fenced", "node", name, "error", err)
		return ""
	}
	guarded := make(chan bool, 1)
	go func() { guarded <- answers(ctx, "http://"+fencer+"/metrics") }()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", kubelet)
	if err != nil {
		return "" // no sign of life: the usual case
	}
	if err := conn.Close(); err != nil {
		d.Log.Debug("close the connection to a kubelet", "node", name, "error", err)
	}
	if <-guarded {
		return ""
	}
	return fmt.Sprintf("its kubelet at %s can be reached, but its fencer at %s does not answer, so its protected pods may be running; "+
		"restart the checkpointer on the node", kubelet, fencer)
}

// guardAddresses are where a node's kubelet and fencer listen.
func (d *Driver) guardAddresses(ctx context.Context, name string) (kubelet, fencer string, err error) {
	node, fence := &corev1.Node{}, &v1alpha1.Fence{}
	for object, get := range map[string]client.Object{"node": node, "fence": fence} {
		if err := d.Client.Get(ctx, client.ObjectKey{Name: name}, get); err != nil {
			return "", "", fmt.Errorf("read %s %s: %w", object, name, err)
		}
	}
	host, _, err := net.SplitHostPort(fence.Status.Facts.PeerAddress)
	if err != nil {
		return "", "", fmt.Errorf("read the peer address of node %s: %w", name, err)
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		return "", "", fmt.Errorf("node %s does not say where its kubelet listens", name)
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), net.JoinHostPort(host, strconv.Itoa(permission.FencerPort)), nil
}

// answers is whether something serves the URL until ctx ends.
func answers(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	return response.Body.Close() == nil && response.StatusCode == http.StatusOK
}
