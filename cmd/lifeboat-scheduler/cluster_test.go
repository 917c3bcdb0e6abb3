package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"

	"github.com/lifeboat-dev/lifeboat/checkpointer/steady"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

const (
	// asScheduler makes the test binary behave as lifeboat-scheduler itself.
	asScheduler = "LIFEBOAT_TEST_AS_SCHEDULER"

	schedulerToken = "scheduler-token"
	schedulerUser  = "system:kube-scheduler"
)

func TestMain(m *testing.M) {
	if os.Getenv(asScheduler) != "" {
		main()
		return
	}
	steady.TemporaryFolders()
	os.Exit(m.Run())
}

// controlPlane is an API server with an administrator's clients.
type controlPlane struct {
	*controlplane.ControlPlane
	t       *testing.T
	typed   kubernetes.Interface
	dynamic dynamic.Interface
}

func startControlPlane(t *testing.T) *controlPlane {
	t.Helper()
	cp := &controlPlane{t: t, ControlPlane: controlplane.Start(t, map[string]string{schedulerToken: schedulerUser})}
	var err error
	if cp.typed, err = kubernetes.NewForConfig(cp.Config(controlplane.AdminToken)); err != nil {
		t.Fatal(err)
	}
	if cp.dynamic, err = dynamic.NewForConfig(cp.Config(controlplane.AdminToken)); err != nil {
		t.Fatal(err)
	}
	return cp
}

// startScheduler runs the binary under test with the shipped configuration.
func (cp *controlPlane) startScheduler() {
	cp.t.Helper()
	shipped, err := os.ReadFile("../../manifests/scheduler/config.yaml")
	if err != nil {
		cp.t.Fatal(err)
	}
	config := filepath.Join(cp.t.TempDir(), "config.yaml")
	content := fmt.Appendf(shipped, "clientConnection:\n  kubeconfig: %s\n", cp.Kubeconfig(schedulerToken))
	if err := os.WriteFile(config, content, 0o600); err != nil {
		cp.t.Fatal(err)
	}
	cp.startSchedulerWith(config)
}

func (cp *controlPlane) startSchedulerWith(config string) {
	cp.t.Helper()
	self, err := os.Executable()
	if err != nil {
		cp.t.Fatal(err)
	}
	controlplane.StartProgram(cp.t, []string{asScheduler + "=1"}, self, "--config", config, "--secure-port", "0")
}

// apply creates every object of a manifest.
func (cp *controlPlane) apply(path string) {
	cp.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		cp.t.Fatal(err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(cp.typed.Discovery()))
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		var object unstructured.Unstructured
		if err := decoder.Decode(&object); err != nil {
			return
		}
		if len(object.Object) == 0 {
			continue
		}
		mapping, err := mapper.RESTMapping(object.GroupVersionKind().GroupKind(), object.GroupVersionKind().Version)
		if err != nil {
			cp.t.Fatalf("apply %s: %v", path, err)
		}
		resource := dynamic.ResourceInterface(cp.dynamic.Resource(mapping.Resource))
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			resource = cp.dynamic.Resource(mapping.Resource).Namespace(object.GetNamespace())
		}
		if _, err := resource.Create(cp.t.Context(), &object, metav1.CreateOptions{}); err != nil {
			cp.t.Fatalf("apply %s: %v", path, err)
		}
	}
}
