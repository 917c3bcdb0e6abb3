package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/cgroups"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
)

const greeterImage = "lifeboat.dev/greeter:test"

// testConfig is the configuration of a cluster of the test's own.
func testConfig(t *testing.T, name string, nodes int) Config {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a cluster: not with -short")
	}
	return Config{Name: name, Nodes: nodes, Progress: func(step string) { t.Log(step) }}
}

// startCluster starts a cluster that ends with the test.
func startCluster(t *testing.T, config Config) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// wantNothingLeft fails the test if the host still has something of the cluster.
func wantNothingLeft(t *testing.T, config Config) {
	t.Helper()
	config, err := config.complete()
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{config: config, paths: paths{config.Dir, config.Name}}
	left, err := c.Leftovers()
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left of cluster %s:\n%s", config.Name, strings.Join(left, "\n"))
	}
}

// eventually waits until f succeeds, and fails the test with f's error if it does not.
func eventually(t *testing.T, limit time.Duration, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := poll(ctx, func() error { return f(ctx) }); err != nil {
		t.Fatal(err)
	}
}

// host is what of the host a cluster must not change.
type host struct{ interfaces, settings string }

func lookAtHost(t *testing.T) host {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var h host
	for _, i := range interfaces {
		h.interfaces += i.Name + " "
	}
	for _, name := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
		"net/ipv4/ip_forward", "kernel/hostname", "kernel/random/boot_id",
	} {
		value, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		h.settings += name + "=" + string(value)
	}
	return h
}

// namespacesOf lists the namespaces of the cluster's processes that are not the host's.
func namespacesOf(t *testing.T, c *Cluster) map[string]bool {
	t.Helper()
	group, err := cgroups.New(c.paths.cgroup())
	if err != nil {
		t.Fatal(err)
	}
	pids, err := group.Processes()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, pid := range pids {
		for name := range namespacesOfProcess(fmt.Sprint(pid)) {
			found[name] = true
		}
	}
	for name := range namespacesOfProcess("self") {
		delete(found, name)
	}
	return found
}

func namespacesOfProcess(pid string) map[string]bool {
	found := map[string]bool{}
	for _, kind := range []string{"net", "mnt", "pid", "ipc", "uts", "cgroup"} {
		// A process that has just ended has none.
		if name, err := os.Readlink("/proc/" + pid + "/ns/" + kind); err == nil {
			found[name] = true
		}
	}
	return found
}

// wantNamespacesGone fails the test if a process of the host is in one of the namespaces.
func wantNamespacesGone(t *testing.T, gone map[string]bool) {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		for name := range namespacesOfProcess(filepath.Base(entry)) {
			if gone[name] {
				t.Errorf("process %s is still in namespace %s", filepath.Base(entry), name)
			}
		}
	}
}

func TestClusterLife(t *testing.T) {
	config := testConfig(t, "test-life", 2)
	before := lookAtHost(t)
	archive := greeterArchive(t)
	c := startCluster(t, config)
	rest, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), config); !errors.Is(err, ErrRunning) {
		t.Errorf("second Start: %v, want ErrRunning", err)
	}
	if err := c.LoadImage(t.Context(), archive); err != nil {
		t.Fatal(err)
	}
	greeter := runGreeter(t, client, "n1")
	neighbour := runGreeter(t, client, "n1")
	service := serve(t, client)

	t.Run("kubectl", func(t *testing.T) {
		if got := kubectl(t, c, "logs", greeter.Name); got != "greetings from "+greeter.Name {
			t.Errorf("logs: %q", got)
		}
		if got := kubectl(t, c, "exec", greeter.Name, "--", "/greeter", "say", "ahoy"); got != "ahoy" {
			t.Errorf("exec: %q", got)
		}
	})
	t.Run("services", func(t *testing.T) {
		// From beside the API server, as it calls webhooks.
		eventually(t, 30*time.Second, func(ctx context.Context) error {
			_, err := get(ctx, c, service)
			return err
		})
		// From a pod to one on its own node, which may be itself.
		answered := map[string]bool{}
		for range 12 {
			answered[kubectl(t, c, "exec", neighbour.Name, "--", "/greeter", "ask", "http://"+service)] = true
		}
		if !answered[greeter.Name] {
			t.Errorf("the pod beside never answered, only %v", answered)
		}
	})
	t.Run("power", func(t *testing.T) { testPower(t, c, client, greeter.Name) })
	t.Run("network", func(t *testing.T) { testNetwork(t, c, client, greeter.Name) })

	inUse := namespacesOf(t, c)
	if len(inUse) < 12 {
		t.Errorf("the cluster's processes are in %d namespaces of their own", len(inUse))
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	wantNothingLeft(t, config)
	wantNamespacesGone(t, inUse)
	if after := lookAtHost(t); after != before {
		t.Errorf("the host was\n%+v\nand is\n%+v", before, after)
	}
	if _, err := Attach(config); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Attach after Stop: %v, want ErrNotRunning", err)
	}
}

// testPower cuts the power of n1, where the pod runs, and brings it back.
func testPower(t *testing.T, c *Cluster, client kubernetes.Interface, pod string) {
	address := podAddress(t, client, pod)
	for _, file := range []string{"/run/memory", "/tmp/memory", "/var/lib/lifeboat/disk", "/etc/disk"} {
		if _, err := c.NodeExec(t.Context(), "n1", "touch", file); err != nil {
			t.Fatal(err)
		}
	}
	identity := func() string {
		id, err := c.NodeExec(t.Context(), "n1", "cat", "/etc/machine-id")
		if err != nil {
			t.Fatal(err)
		}
		return string(id)
	}
	boot := func(ctx context.Context) string {
		node, err := client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return node.Status.NodeInfo.BootID
	}
	oldBoot, machineID := boot(t.Context()), identity()
	if real, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err != nil || strings.TrimSpace(string(real)) == oldBoot {
		t.Errorf("the node has the host's boot ID %s (%v)", oldBoot, err)
	}
	// A frozen process survives SIGKILL on cgroup v1; it must not survive this.
	freezeSomething(t, c)

	begin := time.Now()
	if err := c.PowerOff(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	t.Logf("power cut in %s", time.Since(begin))
	if err := c.PowerOff(t.Context(), "n1"); err != nil {
		t.Errorf("second PowerOff: %v", err)
	}
	nodes, err := c.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	if nodes[0].PoweredOn || nodes[0].PID != 0 || !nodes[1].PoweredOn {
		t.Errorf("nodes: %+v", nodes)
	}
	if _, err := c.NodeExec(t.Context(), "n1", "true"); err == nil {
		t.Error("a program ran on a node without power")
	}
	wantSilence(t, c, address)

	if err := c.PowerOn(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{"/run/memory": false, "/tmp/memory": false, "/var/lib/lifeboat/disk": true, "/etc/disk": true} {
		_, err := c.NodeExec(t.Context(), "n1", "test", "-e", file)
		if got := err == nil; got != want {
			t.Errorf("%s is there after the power cut: %v, want %v", file, got, want)
		}
	}
	if got := identity(); got != machineID {
		t.Errorf("machine ID changed from %s to %s", machineID, got)
	}
	eventually(t, time.Minute, func(ctx context.Context) error {
		if now := boot(ctx); now == oldBoot {
			return fmt.Errorf("boot ID is still %s", now)
		}
		name, err := get(ctx, c, net.JoinHostPort(podAddress(t, client, pod), "8080"))
		if err == nil && name != pod {
			err = fmt.Errorf("answer from %q, want %q", name, pod)
		}
		return err
	})
}

// testNetwork cuts n1 off the network and heals it.
func testNetwork(t *testing.T, c *Cluster, client kubernetes.Interface, pod string) {
	address := podAddress(t, client, pod)
	if err := c.CutNetwork(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	wantSilence(t, c, address)
	// It lives on.
	if _, err := c.NodeExec(t.Context(), "n1", "bash", "-c", "exec 3<>/dev/tcp/"+address+"/8080"); err != nil {
		t.Errorf("on the cut node: %v", err)
	}
	if err := c.HealNetwork(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		_, err := get(ctx, c, net.JoinHostPort(address, "8080"))
		return err
	})
}

// freezeSomething leaves a frozen process on n1.
func freezeSomething(t *testing.T, c *Cluster) {
	t.Helper()
	const script = `
set -e
dir=/sys/fs/cgroup/freezer; test -d $dir || dir=/sys/fs/cgroup
mkdir $dir/frozen
sleep 1000 </dev/null >/dev/null 2>&1 &
echo $! > $dir/frozen/cgroup.procs
if test -e $dir/frozen/freezer.state; then echo FROZEN > $dir/frozen/freezer.state
else echo 1 > $dir/frozen/cgroup.freeze; fi`
	if _, err := c.NodeExec(t.Context(), "n1", "sh", "-c", script); err != nil {
		t.Fatal(err)
	}
}

// wantSilence fails the test if anything answers for the pod's address, be it a refusal
// by its node's kernel.
func wantSilence(t *testing.T, c *Cluster, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	conn, err := c.Dial(ctx, "tcp", net.JoinHostPort(address, "8080"))
	if err == nil {
		conn.Close()
		t.Fatal("something answers at the pod's address")
	}
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		t.Errorf("dial: %v, want silence", err)
	}
}

func TestClusterTwoAtOnce(t *testing.T) {
	first, second := testConfig(t, "test-first", 1), testConfig(t, "test-second", 1)
	a, b := startCluster(t, first), startCluster(t, second)
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantNothingLeft(t, first)
	if got := kubectl(t, b, "get", "nodes", "--output=name"); got != "node/n1" {
		t.Errorf("nodes of the second cluster after the end of the first: %q", got)
	}
}

// greeterArchive builds the image of testdata/greeter.
func greeterArchive(t *testing.T) string {
	t.Helper()
	binary, archive := filepath.Join(t.TempDir(), "greeter"), filepath.Join(t.TempDir(), "greeter.tar")
	if err := image.GoBinary(t.Context(), ".", "./testdata/greeter", binary); err != nil {
		t.Fatal(err)
	}
	if err := image.FromBinary(archive, greeterImage, binary); err != nil {
		t.Fatal(err)
	}
	return archive
}

// runGreeter runs a greeter on a node and waits until it is ready.
func runGreeter(t *testing.T, client kubernetes.Interface, node string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "greeter-", Labels: map[string]string{"app": "greeter"}},
		Spec: corev1.PodSpec{
			NodeName:   node,
			Containers: []corev1.Container{{Name: "greeter", Image: greeterImage, ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
	pod, err := client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		pod, err = client.CoreV1().Pods("default").Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("pod is %s", pod.Status.Phase)
		}
		return nil
	})
	return pod
}

// serve puts a Service before the greeters and returns its address.
func serve(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	service, err := client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "greeter"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "greeter"},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort(service.Spec.ClusterIP, "80")
}

func podAddress(t *testing.T, client kubernetes.Interface, pod string) string {
	t.Helper()
	found, err := client.CoreV1().Pods("default").Get(t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return found.Status.PodIP
}

// get asks a greeter for its name, by its address in the cluster.
func get(ctx context.Context, c *Cluster, address string) (string, error) {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// kubectl runs the cluster's kubectl on the host.
func kubectl(t *testing.T, c *Cluster, args ...string) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), c.Kubectl(), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %v: %v\n%s", args, err, output)
	}
	return strings.TrimSpace(string(output))
}
