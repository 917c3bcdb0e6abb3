package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const clonedOutput = `Migration shop/shelf-warm-1: pod shelf-warm starts as a clone of pod shelf in generation 17
    0.1s  Accepted
    0.1s  Created
    0.2s  Scheduled  pod shelf-warm on n3
    0.5s  Restoring  generation 17
    0.9s  Ready
Pod shop/shelf-warm runs on n3 with the memory of pod shelf in generation 17 after 900ms.
`

func (c *moves) testClone(t *testing.T) {
	if err := nodev1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	c.create(&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.RuntimeClassName}, Handler: v1alpha1.RuntimeHandler})
	admitted := func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To(v1alpha1.RuntimeClassName) }
	c.pod("shelf", admitted)
	c.pod("member-0", func(p *corev1.Pod) {
		admitted(p)
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "member", UID: "s", Controller: ptr.To(true)}}
	})
	in := func(status int, text string, arguments ...string) string {
		t.Helper()
		return expect(t, c.admin, status, text, append(arguments, "-n", "shop")...)
	}
	in(1, "belongs to StatefulSet member", "clone", "member-0")
	in(1, `node "far" not found`, "clone", "shelf", "--to", "far")
	in(2, "--generation -1 is not allowed", "clone", "shelf", "--generation", "-1")
	in(2, "--labels", "clone", "shelf", "--labels", "no label")
	in(0, "starts as a clone of pod shelf (server dry run)\n", "clone", "shelf", "--dry-run=server")
	out := in(0, "", "clone", "pod/shelf", "--dry-run=client", "-o", "json", "--labels", "tier=warm,zone=a")
	var m v1alpha1.Migration
	if err := json.Unmarshal([]byte(out), &m); err != nil || !m.Clones() || m.Spec.Clone.Labels["zone"] != "a" || !strings.HasPrefix(m.Spec.Pod.Name, "shelf-clone-") {
		t.Errorf("%v: %+v", err, m)
	}

	started := c.start("clone", "shelf", "-n", "shop", "--name", "shelf-warm", "--generation", "17")
	made := c.opened(t, "shelf-warm")
	claim := &v1alpha1.Claim{PodName: "shelf-warm", PodUID: "new", NodeName: "n3", At: metav1.NowMicro()}
	c.reach(t, made, v1alpha1.PhaseAccepted, 100*time.Millisecond, nil)
	c.reach(t, made, v1alpha1.PhaseCreated, 120*time.Millisecond, nil)
	c.reach(t, made, v1alpha1.PhaseScheduled, 200*time.Millisecond, func(s *v1alpha1.MigrationStatus) { s.Claim = claim })
	c.reach(t, made, v1alpha1.PhaseRestoring, 500*time.Millisecond, func(s *v1alpha1.MigrationStatus) {
		s.Restore = &v1alpha1.RestoreStatus{PodUID: "new", Generation: 17, StartedAt: claim.At}
	})
	c.reach(t, made, v1alpha1.PhaseReady, 900*time.Millisecond, func(s *v1alpha1.MigrationStatus) { s.Result, s.RTOSeconds = v1alpha1.ResultRestored, 0.9 })
	if out, errs, status := started.end(); status != 0 || out != clonedOutput || errs != "" {
		t.Errorf("exit status %d, %q, and\n%s", status, errs, out)
	}
	in(0, "Clone of:", "describe", "migration", "shelf-warm-1")

	started = c.start("clone", "shelf", "-n", "shop", "--name", "shelf-cold", "-o", "jsonpath={.status.reason}")
	made = c.opened(t, "shelf-cold")
	c.reach(t, made, v1alpha1.PhaseAccepted, 100*time.Millisecond, nil)
	c.reach(t, made, "", 0, func(s *v1alpha1.MigrationStatus) {
		s.Result, s.Reason, s.Message = v1alpha1.ResultFailed, v1alpha1.ReasonRestoreFailed, "made up"
	})
	out, errs, status := started.end()
	if status != 4 || out != v1alpha1.ReasonRestoreFailed || !strings.Contains(errs, "Pod shop/shelf-cold could not be started as a clone of pod shelf, and is deleted. RestoreFailed: made up.\n") {
		t.Errorf("exit status %d, %q, and\n%s", status, errs, out)
	}
}
