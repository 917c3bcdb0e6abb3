package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

// TestStartsAnew stops the API server until the leading watcher has lost the lead. Its
// process goes on as a new watcher, so that no kubelet would hold it back, lives and is
// not ready while nobody answers, and leads again afterwards.
func TestStartsAnew(t *testing.T) {
	cp := startControlPlane(t)
	for _, manifest := range []string{"namespace.yaml", "crds/lifeboat.dev_checkpoints.yaml", "crds/lifeboat.dev_fences.yaml",
		"crds/lifeboat.dev_migrations.yaml", "runtimeclass.yaml", "watcher-rbac.yaml"} {
		cp.apply("../../manifests/"+manifest, nil)
	}
	c := &cluster{controlPlane: cp}
	c.member, _ = strconv.Atoi(controlplane.FreePort(t))
	started := time.Now()
	w := c.startWatcher(t, 1)
	c.watchers = []*replica{w}
	c.applyAdmission()
	c.leader(t)
	ready := func(context.Context) error { _, err := get("http://" + w.metrics + "/readyz"); return err }
	controlplane.Eventually(t, "the watcher is ready", ready)
	controlplane.Eventually(t, "it has run for long enough", func(context.Context) error {
		if time.Since(started) < ranFor+time.Second {
			return errNotYet
		}
		return nil
	})

	cp.APIServer().Signal(t, syscall.SIGSTOP)
	controlplane.Eventually(t, "it lives and is not ready", func(context.Context) error {
		if _, err := get("http://" + w.metrics + "/healthz"); err != nil {
			return err
		}
		_, err := get("http://" + w.metrics + "/readyz")
		switch {
		case err == nil:
			return errors.New("it is ready")
		case !strings.Contains(err.Error(), "the API server cannot be reached"):
			return err
		}
		return nil
	})
	cp.APIServer().Signal(t, syscall.SIGCONT)

	controlplane.Eventually(t, "it is ready again", ready)
	c.leader(t)
	if err := w.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("its process has ended: %v", err)
	}
	body, err := get("http://" + w.metrics + "/metrics")
	if err == nil && !strings.Contains(body, "lifeboat_watcher_started_anew_total 1\n") {
		err = errors.New("its metrics do not say that it started anew once")
	}
	if err != nil {
		t.Error(err)
	}
}
