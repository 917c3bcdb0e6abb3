package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

const (
	// namespace has all pods.
	namespace = "scale"
	// writers is how many objects are written at a time.
	writers = 16
	// servedWithin is how long the API server may take to serve a kind that was
	// defined just before.
	servedWithin = 30 * time.Second
)

// plane is an API server with Lifeboat's kinds, and its administrator's client.
type plane struct {
	*controlplane.ControlPlane
	client.WithWatch
	audit auditLog
}

// startPlane starts a control plane that knows one more user, by a token, and keeps
// a record of that user's requests.
func startPlane(s *scope, token, user string, manifests ...string) (*plane, error) {
	folder := s.TempDir()
	policy, log := filepath.Join(folder, "policy.yaml"), filepath.Join(folder, "audit.log")
	if err := os.WriteFile(policy, auditPolicy(user), 0o600); err != nil {
		return nil, err
	}
	p := &plane{audit: auditLog(log)}
	p.ControlPlane = controlplane.Start(s, map[string]string{token: user},
		"--audit-policy-file", policy, "--audit-log-path", log, "--audit-log-mode", "blocking")
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	config := p.Config(controlplane.AdminToken)
	config.QPS = -1
	var err error
	if p.WithWatch, err = client.NewWithWatch(config, client.Options{Scheme: scheme}); err != nil {
		return nil, err
	}
	kinds := []string{"crds/lifeboat.dev_checkpoints.yaml", "crds/lifeboat.dev_fences.yaml", "crds/lifeboat.dev_migrations.yaml", "runtimeclass.yaml"}
	for _, manifest := range append(kinds, manifests...) {
		if err := p.apply(s.ctx, manifest); err != nil {
			return nil, err
		}
	}
	if err := p.Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		return nil, err
	}
	return p, until(s.ctx, servedWithin, "Lifeboat's kinds are served", func(ctx context.Context) error {
		return errors.Join(p.List(ctx, &v1alpha1.FenceList{}), p.List(ctx, &v1alpha1.MigrationList{}), p.List(ctx, &v1alpha1.CheckpointList{}))
	})
}

// apply creates the objects of a manifest.
func (p *plane) apply(ctx context.Context, manifest string) error {
	content, err := os.ReadFile(filepath.Join(module, "manifests", manifest))
	if err != nil {
		return err
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read %s: %w", manifest, err)
		}
		if len(object.Object) == 0 {
			continue
		}
		if err := p.Create(ctx, object); err != nil {
			return fmt.Errorf("apply %s: %w", manifest, err)
		}
	}
}

// createWhole creates an object together with its status, which the API server takes
// only once the object is there.
func (p *plane) createWhole(ctx context.Context, object client.Object) error {
	whole := object.DeepCopyObject().(client.Object)
	if err := p.Create(ctx, object); err != nil {
		return err
	}
	whole.SetResourceVersion(object.GetResourceVersion())
	whole.SetUID(object.GetUID())
	return p.Status().Update(ctx, whole)
}

// each does something n times, several of them at once, until one fails.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	return eachOf(ctx, n, writers, do)
}

func eachOf(ctx context.Context, n, atOnce int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// until waits until the condition returns nil.
func until(ctx context.Context, within time.Duration, what string, condition func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("waited %s until %s", within, what))
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		if err := condition(ctx); err == nil {
			return nil
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}
