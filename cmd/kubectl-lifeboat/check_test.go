package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/preflight"
	"github.com/lifeboat-dev/lifeboat/checkpointer/steady"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

// asVariable makes this test program the plugin itself.
const asVariable = "LIFEBOAT_TEST_AS_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(asVariable) != "" {
		main()
		return
	}
	steady.TemporaryFolders()
	os.Exit(steady.Main(m.Run, 500*time.Millisecond))
}

// plugin runs the plugin, and returns its output, error output and exit status.
func plugin(t *testing.T, kubeconfig string, arguments ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], arguments...)
	cmd.Env = append(os.Environ(), asVariable+"=1", "KUBECONFIG="+kubeconfig, "HOME="+t.TempDir())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// expect runs the plugin and checks its exit status, and what it writes.
func expect(t *testing.T, kubeconfig string, status int, text string, arguments ...string) string {
	t.Helper()
	stdout, stderr, got := plugin(t, kubeconfig, arguments...)
	if got != status || !strings.Contains(stdout+stderr, text) {
		t.Errorf("%v: exit status %d, want %d; %q must be in:\n%s\nor on the error output:\n%s", arguments, got, status, text, stdout, stderr)
	}
	if (stderr != "") != (status != 0 && stdout == "") {
		t.Errorf("%v: error output %q, beside %q", arguments, stderr, stdout)
	}
	return stdout
}

func TestWithoutCluster(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	expect(t, none, 2, "reach the cluster", "check", "web-0", "--server", "http://"+controlplane.FreeAddress(t))
	expect(t, none, 2, "context was not found for specified context: far", "check", "web-0", "--context", "far")
	expect(t, none, 2, "kubectl lifeboat check needs POD", "check")
	expect(t, none, 2, "unknown output format", "check", "web-0", "-o", "xml")
	expect(t, none, 2, `unknown command "chekc"; did you mean check?`, "chekc")
	expect(t, none, 2, `unknown flag: --stratgy; see "kubectl lifeboat migrate --help"`, "migrate", "web-0", "--stratgy", "live")
	expect(t, none, 2, "use live, warm, cold, application or replace", "migrate", "web-0", "--strategy", "hot")
	expect(t, none, 2, "use none, client or server", "drain", "n1", "--dry-run", "yes")
	expect(t, none, 2, "allowed formats are", "migrations", "-o", "xml")
	expect(t, none, 2, "name pods or use --selector", "migrate", "web-0", "-l", "a=b")
	expect(t, none, 2, `describe "web-0" is not known`, "describe", "web-0")
	expect(t, none, 1, "reach the cluster", "status", "--server", "http://"+controlplane.FreeAddress(t))
	if out := expect(t, none, 0, "", "version"); out == "" {
		t.Error("version prints nothing")
	}
	expect(t, none, 0, "Exit status: 0 when the pod can be checkpointed", "check", "--help")
}

// cluster is an API server with an administrator's client.
type cluster struct {
	client.Client
	*controlplane.ControlPlane
	t *testing.T
}

func startCluster(t *testing.T) *cluster {
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	c := &cluster{ControlPlane: controlplane.Start(t, map[string]string{"guest-token": "guest", "blind-token": "blind"}), t: t}
	var err error
	if c.Client, err = client.New(c.Config(controlplane.AdminToken), client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	return c
}

// install installs CRDs, and waits until they are served.
func (c *cluster) install(kinds map[string]client.ObjectList) {
	c.t.Helper()
	for kind, list := range kinds {
		content, err := os.ReadFile("../../manifests/crds/lifeboat.dev_" + kind + ".yaml")
		if err != nil {
			c.t.Fatal(err)
		}
		object := &unstructured.Unstructured{}
		if err := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096).Decode(object); err != nil && !errors.Is(err, io.EOF) {
			c.t.Fatal(err)
		}
		if err := c.Create(c.t.Context(), object); err != nil {
			c.t.Fatal(err)
		}
		controlplane.Eventually(c.t, kind+" are served", func(ctx context.Context) error {
			return c.List(ctx, list)
		})
	}
}

// pod creates a pod that runs, as far as the API tells.
func (c *cluster) pod(name string, change func(*corev1.Pod)) *corev1.Pod {
	c.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: map[string]string{v1alpha1.AnnotationFailover: "true"}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "web", Image: "web"}}},
	}
	if change != nil {
		change(pod)
	}
	if err := c.Create(c.t.Context(), pod); err != nil {
		c.t.Fatal(err)
	}
	pod.Status.Phase = corev1.PodRunning
	if err := c.Status().Update(c.t.Context(), pod); err != nil {
		c.t.Fatal(err)
	}
	return pod
}

// report writes a pod's Checkpoint as its node's checkpointer does.
func (c *cluster) report(pod *corev1.Pod, report preflight.Report) {
	c.t.Helper()
	checkpoint := &v1alpha1.Checkpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
		Spec:       v1alpha1.CheckpointSpec{PodUID: pod.UID, NodeName: pod.Spec.NodeName},
	}
	if err := c.Create(c.t.Context(), checkpoint); err != nil {
		c.t.Fatal(err)
	}
	condition, findings := report.Status()
	condition.LastTransitionTime = metav1.Now()
	checkpoint.Status.Conditions, checkpoint.Status.Findings = []metav1.Condition{condition}, findings
	if err := c.Status().Update(c.t.Context(), checkpoint); err != nil {
		c.t.Fatalf("the API refuses the status: %v", err)
	}
}

// ringReport is what a node finds of a container with an io_uring.
func ringReport() preflight.Report {
	return preflight.Judge(preflight.Pod{LimitsReadable: true, Containers: []preflight.Container{{
		Name: "web", Init: 1, Namespaces: map[string]string{"NEWPID": "", "NEWNET": "", "NEWIPC": ""},
		Processes: []preflight.Process{{Pid: 1, Command: "node", NodePid: 9, Files: []preflight.File{{Link: "anon_inode:[io_uring]"}}}},
	}}})
}

func TestCheck(t *testing.T) {
	c := startCluster(t)
	if err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}); err != nil {
		t.Fatal(err)
	}
	admin, guest := c.Kubeconfig(controlplane.AdminToken), c.Kubeconfig("guest-token")

	early := c.pod("early", nil)
	expect(t, admin, 2, "Lifeboat is not installed in this cluster", "check", "early", "-n", "shop")
	c.install(map[string]client.ObjectList{"checkpoints": &v1alpha1.CheckpointList{}})
	expect(t, admin, 2, "node n1 has not looked at its containers yet", "check", "early", "-n", "shop")

	c.report(early, preflight.Report{})
	expect(t, admin, 0, "Pod shop/early can be checkpointed.\n", "check", "early", "-n", "shop")
	expect(t, admin, 0, "Pod shop/early can be checkpointed.\n", "check", "pod/early", "--namespace=shop")

	c.report(c.pod("ring", nil), ringReport())
	expect(t, admin, 1, "process 1 (node) uses io_uring", "check", "ring", "-n", "shop")
	expect(t, admin, 1, "UV_USE_IO_URING=0", "check", "ring", "-n", "shop", "-o", "wide")
	var verdict struct {
		Checkpointable string
		Findings       []v1alpha1.Finding
	}
	if err := json.Unmarshal([]byte(expect(t, admin, 1, "", "check", "ring", "-n", "shop", "-o", "json")), &verdict); err != nil {
		t.Error(err)
	}
	if verdict.Checkpointable != "False" || len(verdict.Findings) != 1 || verdict.Findings[0].Reason != "IOUring" {
		t.Errorf("as JSON: %+v", verdict)
	}
	expect(t, admin, 1, `checkpointable: "False"`, "check", "ring", "-n", "shop", "-o", "yaml")

	// A Checkpoint that an earlier pod of the name has left says nothing.
	c.report(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "next", UID: "earlier"}}, ringReport())
	c.pod("next", nil)
	expect(t, admin, 2, "has not looked at its containers yet", "check", "next", "-n", "shop")

	// The longest report that there can be.
	var long preflight.Report
	for range 40 {
		long.Findings = append(long.Findings, preflight.Finding{Container: "web", Severity: preflight.Refuses, Reason: preflight.NetworkFiles,
			Detail: strings.Repeat("ä", 3000), Hint: strings.Repeat("h", 3000)})
	}
	c.report(c.pod("long", nil), long)
	expect(t, admin, 1, "16 of 40 findings are listed", "check", "long", "-n", "shop", "-o", "json")

	c.pod("open", func(p *corev1.Pod) { p.Annotations = nil })
	expect(t, admin, 0, "only its specification was judged", "check", "open", "-n", "shop")
	c.pod("host", func(p *corev1.Pod) {
		p.Annotations, p.Spec.HostNetwork, p.Spec.Containers[0].TTY = nil, true, true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "host", UID: "1", Controller: ptr.To(true)}}
	})
	host := expect(t, admin, 1, "HostNetwork", "check", "host", "-n", "shop")
	for _, text := range []string{"Terminal", `remove "hostNetwork: true"`, "kubectl patch statefulset host -n shop"} {
		if !strings.Contains(host, text) {
			t.Errorf("%q is not in:\n%s", text, host)
		}
	}

	expect(t, admin, 2, `pod "gone" not found in namespace "shop"`, "check", "gone", "-n", "shop")
	expect(t, guest, 2, `User "guest" cannot get resource "pods"`, "check", "open", "-n", "shop")
	if names, _, _ := plugin(t, admin, "__complete", "check", "-n", "shop", "ea"); !strings.HasPrefix(names, "early\n:4") {
		t.Errorf("completed to %q", names)
	}
}
