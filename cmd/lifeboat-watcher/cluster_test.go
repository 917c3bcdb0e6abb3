package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

const (
	watcherToken = "watcher-token"
	// watcherUser is bound to the shipped roles.
	watcherUser = "system:serviceaccount:lifeboat-system:lifeboat-watcher"
)

var errNotYet = errors.New("not yet")

// controlPlane is an API server with an administrator's client.
type controlPlane struct {
	*controlplane.ControlPlane
	client.Client
	t *testing.T
}

func startControlPlane(t *testing.T) *controlPlane {
	t.Helper()
	cp := &controlPlane{t: t, ControlPlane: controlplane.Start(t, map[string]string{watcherToken: watcherUser})}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if cp.Client, err = client.New(cp.Config(controlplane.AdminToken), client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	return cp
}

// apply creates the objects of a manifest, after a change to each.
func (cp *controlPlane) apply(path string, change func(*unstructured.Unstructured)) {
	cp.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		cp.t.Fatal(err)
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			cp.t.Fatalf("read %s: %v", path, err)
		}
		if len(object.Object) == 0 {
			continue
		}
		if change != nil {
			change(object)
		}
		// A kind that was defined just before may not be served yet.
		controlplane.Eventually(cp.t, "applied "+path, func(ctx context.Context) error { return cp.Create(ctx, object) })
	}
}
