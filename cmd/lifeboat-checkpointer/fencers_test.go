package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/permission/peers"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
	"github.com/lifeboat-dev/lifeboat/checkpointer/fence/fencetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/steady"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/identity"
)

// fencerVariable makes this program a fencer, of a fencerConfig as JSON.
const fencerVariable = "LIFEBOAT_TEST_FENCER"

type fencerConfig struct {
	Node, API, Folder        string
	MetricsPort, VoucherPort int
}

func TestMain(m *testing.M) {
	if os.Getenv(fencerVariable) == "" {
		steady.TemporaryFolders()
		os.Exit(steady.Main(m.Run, 500*time.Millisecond))
	}
	var c fencerConfig
	err := json.Unmarshal([]byte(os.Getenv(fencerVariable)), &c)
	if err == nil {
		err = fence.Run(context.Background(), fence.Config{
			NodeName: c.Node, Folder: c.Folder, CgroupRoot: fencetest.CgroupRoot, BootID: "boot-of-" + c.Node,
			MetricsPort: c.MetricsPort, VoucherPort: c.VoucherPort,
		}, &rest.Config{
			Host: c.API, BearerToken: controlplane.AdminToken, TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// node is a node with a real fencer and a pod.
type node struct {
	fencerConfig
	pod    *fencetest.Pod
	fencer *controlplane.Program
	// api and voucher are the ways to the API server and to the node's voucher.
	api, voucher *way

	mu     sync.Mutex
	stood  bool    // it was seen frozen in this step
	stalls float64 // of the fencer, when this step began
}

type cluster struct {
	*controlplane.ControlPlane
	t         *testing.T
	client    client.Client
	authority *identity.Authority
	nodes     []*node
}

func startCluster(t *testing.T, size int) *cluster {
	c := &cluster{ControlPlane: controlplane.Start(t, nil), t: t}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		check(t, add(scheme))
	}
	config := c.Config(controlplane.AdminToken)
	var err error
	c.client, err = client.New(config, client.Options{Scheme: scheme})
	check(t, err)
	check(t, c.client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.SystemNamespace}}))
	content, err := os.ReadFile("../../manifests/crds/lifeboat.dev_fences.yaml")
	check(t, err)
	crd := &unstructured.Unstructured{}
	check(t, yaml.Unmarshal(content, crd))
	check(t, c.client.Create(t.Context(), crd))
	c.eventually("Fences are served", func() error {
		return c.client.List(t.Context(), &v1alpha1.FenceList{})
	})
	clientset, err := kubernetes.NewForConfig(config)
	check(t, err)
	c.authority, err = identity.Ensure(t.Context(), clientset, v1alpha1.SystemNamespace)
	check(t, err)

	for i := range size {
		n := &node{fencerConfig: fencerConfig{
			Node: fmt.Sprintf("n%d", i+1), API: c.Host(), Folder: t.TempDir(), MetricsPort: freePort(t), VoucherPort: freePort(t),
		}, pod: fencetest.Start(t, 1)}
		n.pod.Register(n.Folder)
		n.voucher = newWay(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(n.VoucherPort)))
		c.nodes = append(c.nodes, n)
	}
	// The last node can be cut off: all that it asks, and all that it is asked, goes
	// through this test.
	last := c.nodes[size-1]
	last.api = newWay(t, c.Host()[len("https://"):])
	last.API = "https://" + last.api.address()
	for _, n := range c.nodes {
		alive := map[string]string{}
		for _, other := range c.nodes {
			alive[other.Node] = net.JoinHostPort("127.0.0.1", strconv.Itoa(other.VoucherPort))
			if n == last || other == last {
				alive[other.Node] = other.voucher.address()
			}
		}
		check(t, fence.PublishMembers(n.Folder, alive))
		credentials, err := c.authority.Credentials(n.Node)
		check(t, err)
		check(t, fence.PublishCredentials(n.Folder, credentials))
		c.startFencer(n)
	}
	c.watchPods()
	for _, n := range c.nodes {
		c.eventually(n.Node+" has its peers and runs its pod", func() error {
			var record v1alpha1.Fence
			if err := c.client.Get(t.Context(), client.ObjectKey{Name: n.Node}, &record); err != nil {
				return err
			}
			if len(record.Spec.Peers) != size-1 || slices.Contains(record.Spec.Peers, n.Node) {
				return fmt.Errorf("its peers are %q", record.Spec.Peers)
			}
			return n.running()
		})
	}
	return c
}

func (c *cluster) startFencer(n *node) {
	c.t.Helper()
	self, err := os.Executable()
	check(c.t, err)
	config, err := json.Marshal(n.fencerConfig)
	check(c.t, err)
	n.fencer = controlplane.StartProgram(c.t, []string{fencerVariable + "=" + string(config)}, self)
}

// started is when the last fencer was started.
func (c *cluster) started() (last time.Time) {
	for _, n := range c.nodes {
		info, err := os.Stat(fmt.Sprintf("/proc/%d", n.fencer.Process.Pid))
		check(c.t, err)
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// watchPods takes down when a pod is first seen frozen, until the test ends.
func (c *cluster) watchPods() {
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(ended)
		for ticks := time.NewTicker(5 * time.Millisecond); ; {
			for _, n := range c.nodes {
				if n.pod.Frozen() {
					n.mu.Lock()
					n.stood = true
					n.mu.Unlock()
				}
			}
			select {
			case <-ticks.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	c.t.Cleanup(func() { cancel(); <-ended })
}

// tries is how often a step is played at most while the machine stalls fencers.
const tries = 4

// step is a part of the test, at whose beginning all pods run. If it returns that
// pods stood still although they should not have, it is played again, provided that
// a fencer says that the machine stalled it: fencers that get no processor time can
// neither read nor vouch in time, and what they stop then they are right to stop.
func (c *cluster) step(what string, do func() (stopped []string)) {
	c.t.Helper()
	for try := 1; ; try++ {
		for _, n := range c.nodes {
			c.eventually(n.Node+" runs", n.running)
			c.eventually(n.Node+"'s pod has thawed", func() error {
				if n.pod.Frozen() {
					return errors.New("it stands still")
				}
				return nil
			})
			n.mu.Lock()
			n.stood, n.stalls = false, n.countStalls(c.t)
			n.mu.Unlock()
		}
		started := time.Now()
		stopped := do()
		c.t.Logf("%s: %.1f s", what, time.Since(started).Seconds())
		if len(stopped) == 0 {
			return
		}
		stalled := slices.ContainsFunc(c.nodes, func(n *node) bool { return n.countStalls(c.t) != n.stalls })
		if !stalled || try == tries {
			c.t.Fatalf("%s, try %d: the pods of %q were stopped; a fencer was stalled: %t", what, try, stopped, stalled)
		}
		c.t.Logf("the pods of %q were stopped, but the machine stalled a fencer: once more", stopped)
	}
}

// stood returns those of the nodes whose pods have been stopped in this step, if
// only for a moment.
func (c *cluster) stood(nodes ...*node) (stopped []string) {
	for _, n := range nodes {
		n.mu.Lock()
		if n.stood {
			stopped = append(stopped, n.Node)
		}
		n.mu.Unlock()
	}
	return stopped
}

// countStalls is how often the node's fencer was stalled since it was started.
func (n *node) countStalls(t *testing.T) float64 {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", n.MetricsPort), nil)
	check(t, err)
	response, err := http.DefaultClient.Do(request)
	check(t, err)
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(response.Body)
	check(t, err)
	return families["lifeboat_fencer_stalls_total"].GetMetric()[0].GetCounter().GetValue()
}

// stops demands that a node is permitted no longer than a Period from an instant on,
// and that its pod stands still then. How soon depends on what else this machine does.
func (c *cluster) stops(n *node, from fence.Instant) {
	c.t.Helper()
	c.eventually(n.Node+" is frozen", n.frozen)
	frozen := fence.Now()
	state, _, err := fence.ReadState(n.Folder)
	check(c.t, err)
	if last := from.Add(permission.Default.Period); state.PermittedUntil > last {
		c.t.Errorf("%s was permitted %s too long", n.Node, time.Duration(state.PermittedUntil-last))
	}
	c.t.Logf("%s: seen frozen %.3f s after its permission", n.Node, time.Duration(frozen-state.PermittedUntil).Seconds())
}

// during lets time pass.
func (c *cluster) during(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.t.Context().Done():
	}
}

func (c *cluster) eventually(what string, condition func() error) {
	c.t.Helper()
	controlplane.Eventually(c.t, what, func(context.Context) error { return condition() })
}

// promise asks the peers of a node as a watcher does.
func (c *cluster) promise(name string) (promised, unreadable []string) {
	config, err := c.authority.ClientTLS("watcher")
	check(c.t, err)
	watcher := peers.NewClient(config)
	defer watcher.Close()
	addresses := map[string]string{}
	for _, n := range c.nodes {
		if n.Node != name {
			addresses[n.Node] = net.JoinHostPort("127.0.0.1", strconv.Itoa(n.VoucherPort))
		}
	}
	return watcher.Promise(c.t.Context(), addresses, name)
}

// cutOff cuts all ways from and to the last of the nodes, or heals them; see startCluster.
func (n *node) cutOff(cut bool, nodes []*node) {
	n.api.setCut(cut)
	for _, other := range nodes {
		other.voucher.setCut(cut)
	}
}

func (n *node) frozen() error {
	if !n.pod.Frozen() {
		return errors.New("it runs")
	}
	return nil
}

func (n *node) running() error {
	state, found, err := fence.ReadState(n.Folder)
	switch {
	case err != nil:
		return err
	case !found || !state.Permits(fence.Now()):
		return errors.New("it is not permitted")
	case n.pod.Ordered():
		return errors.New("it is frozen")
	}
	return nil
}

func freePort(t *testing.T) int {
	port, err := strconv.Atoi(controlplane.FreePort(t))
	check(t, err)
	return port
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
