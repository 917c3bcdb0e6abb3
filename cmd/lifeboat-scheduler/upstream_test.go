package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// besideUpstream is a profile with Lifeboat and a plugin of
// sigs.k8s.io/scheduler-plugins that prefers the node with the most memory.
const besideUpstream = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
profiles:
  - schedulerName: both
    percentageOfNodesToScore: 100
    plugins:
      queueSort:
        enabled: [{name: LifeboatSort}]
        disabled: [{name: "*"}]
      multiPoint:
        enabled:
          - {name: Lifeboat, weight: 1000}
          - {name: NodeResourcesAllocatable, weight: 100}
    pluginConfig:
      - name: NodeResourcesAllocatable
        args:
          mode: Most
          resources: [{name: memory, weight: 1}]
clientConnection: {kubeconfig: %s}
`

// testBesideUpstream checks that Lifeboat and an upstream plugin both take effect
// in one profile. The largest node is fenced, and the smallest has the checkpoint.
func testBesideUpstream(t *testing.T, cp *controlPlane) {
	for i, name := range []string{"small", "large", "largest"} {
		cp.createNode(name, withMemory(fmt.Sprintf("%dGi", 32<<i)))
	}
	cp.createFence(t, "small", v1alpha1.FenceRunning, modern)
	cp.createFence(t, "large", v1alpha1.FenceRunning, modern)
	cp.createFence(t, "largest", v1alpha1.FenceFenced, modern)
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, besideUpstream, cp.Kubeconfig(schedulerToken)), 0o600); err != nil {
		t.Fatal(err)
	}
	cp.startSchedulerWith(config)

	both := func(name string, annotations map[string]string) *corev1.Pod {
		p := pod(name, "")
		p.Annotations, p.Spec.SchedulerName = annotations, "both"
		return p
	}
	protection := map[string]string{v1alpha1.AnnotationFailover: "true"}
	cp.create(t, both("ordinary-both", nil))
	cp.create(t, both("first-start-both", protection))
	cp.createMigration(t, "restored-both", "restored-both", "", held("small"))
	cp.create(t, both("restored-both", protection))
	for name, want := range map[string]string{
		"ordinary-both":    "largest", // by the upstream plugin alone
		"first-start-both": "large",   // by it, of those that Lifeboat admits
		"restored-both":    "small",   // by Lifeboat's score
	} {
		if got := cp.waitForNode(t, name).Spec.NodeName; got != want {
			t.Errorf("pod %s is on node %s, want %s", name, got, want)
		}
	}
	if cp.claim(t, "restored-both") == nil {
		t.Error("the Migration was not claimed")
	}
	for _, name := range []string{"small", "large", "largest"} {
		if err := cp.typed.CoreV1().Nodes().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func withMemory(quantity string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Capacity[corev1.ResourceMemory] = resource.MustParse(quantity)
		n.Status.Allocatable = n.Status.Capacity
	}
}

// Wrong arguments end the scheduler at once, and name the field.
func TestWrongArguments(t *testing.T) {
	dir := t.TempDir()
	config, kubeconfig := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "kubeconfig")
	for path, content := range map[string]string{
		kubeconfig: `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}], users: [{name: u, user: {token: t}}]}`,
		config: `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
  - plugins: {multiPoint: {enabled: [{name: Lifeboat}]}}
    pluginConfig:
      - name: Lifeboat
        args: {apiVersion: lifeboat.dev/v1alpha1, kind: LifeboatArgs, failureHalfLife: -1m}
clientConnection: {kubeconfig: ` + kubeconfig + `}
`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, self, "--config", config, "--secure-port", "0")
	command.Env = append(os.Environ(), asScheduler+"=1")
	output, err := command.CombinedOutput()
	const want = `args.failureHalfLife: Invalid value: \"-1m0s\": must not be negative`
	if err == nil || ctx.Err() != nil || !strings.Contains(string(output), want) {
		t.Errorf("the scheduler ended with %v and said\n%s\nwant %q in it", err, output, want)
	}
}
