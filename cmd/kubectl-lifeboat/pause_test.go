package main

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

func TestPause(t *testing.T) {
	c := startCluster(t)
	admin, guest := c.Kubeconfig(controlplane.AdminToken), c.Kubeconfig("guest-token")
	said := func(want string) {
		t.Helper()
		config := &corev1.ConfigMap{}
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.ConfigName}, config); err != nil {
			t.Fatal(err)
		}
		if got := config.Data[v1alpha1.ConfigRecoveries]; got != want {
			t.Errorf("the ConfigMap says %q, want %q", got, want)
		}
	}
	expect(t, admin, 1, "is Lifeboat installed in this cluster?", "pause")
	expect(t, admin, 0, "Recoveries were not paused.", "resume")
	if err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.SystemNamespace}}); err != nil {
		t.Fatal(err)
	}
	expect(t, admin, 2, "--dry-run \"maybe\" is not known", "pause", "--dry-run", "maybe")
	for _, dry := range []string{"client", "server"} {
		expect(t, admin, 0, "Recoveries are paused: no reason was given.", "pause", "--dry-run", dry)
		expect(t, admin, 0, "Recoveries were not paused.", "resume", "--dry-run", dry)
	}
	expect(t, admin, 0, "Recoveries are paused: no reason was given.", "pause")
	expect(t, admin, 0, "dry run)", "resume", "--dry-run", "server")
	said("paused")
	expect(t, admin, 0, "Recoveries are paused: rack 4: switches.", "pause", "--reason", "rack 4: switches")
	said("paused: rack 4: switches")
	expect(t, guest, 1, `User "guest" cannot get resource "configmaps"`, "pause")
	expect(t, guest, 1, `User "guest" cannot get resource "configmaps"`, "resume")
	expect(t, admin, 0, "Recoveries are no longer paused.", "resume")
	said("")
	expect(t, admin, 0, "Recoveries were not paused.", "resume")
}
