package main

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/e2e/marked"
	"github.com/lifeboat-dev/lifeboat/identity"
)

var update = flag.Bool("update", false, "write the examples' output into docs/reference/api.md")

// TestAPIExamples runs the examples of docs/reference/api.md with curl. Of the cluster
// there is the API server alone: the test plays the checkpointers and the moves.
func TestAPIExamples(t *testing.T) {
	for _, program := range []string{"curl", "jq"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("the examples need %s", program)
		}
	}
	a := startAPI(t)
	a.makeNode(nodeConfig{Name: "node-1", IP: "127.0.0.1"})
	cart := a.runningPod("cart-0", "node-1", map[string]string{v1alpha1.AnnotationFailover: "true"})
	checkpoint := &v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0"}, Spec: v1alpha1.CheckpointSpec{PodUID: cart.UID, NodeName: "node-1"}}
	a.create(checkpoint)
	sealed := func(generation int64, requested *metav1.MicroTime) {
		a.changed(checkpoint, func() {
			now := metav1.NowMicro()
			checkpoint.Status = v1alpha1.CheckpointStatus{
				Generation: generation, Epoch: 1, TakenAt: &now, DurableAt: ptr.To(metav1.NewMicroTime(now.Add(180 * time.Millisecond))), PauseSeconds: 0.027,
				Bytes: 48 << 20, NewBytes: 1 << 20, Holders: []string{"node-1", "node-3"}, Requested: requested,
				Conditions: []metav1.Condition{{Type: v1alpha1.ConditionProtected, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonProtected,
					Message: "a durable generation exists; it is restored when the node is lost", LastTransitionTime: metav1.Now()}},
			}
		})
	}
	sealed(41, nil)
	shell := a.shell(a.account("mover", "lifeboat-edit", false))

	controlplane.Eventually(t, "the pod is listed", func(context.Context) error {
		if !strings.Contains(shell.run(`curl -sK lifeboat.curl "$API/pods?namespace=shop"`), `"generation":41`) {
			return errNotYet
		}
		return nil
	})
	shell.example("pods", `curl -sK lifeboat.curl "$API/pods?namespace=shop" | jq`, `"generation": 41`)

	var played sync.WaitGroup
	played.Go(func() {
		controlplane.Eventually(t, "a checkpoint is asked for", func(ctx context.Context) error {
			if err := a.Get(ctx, client.ObjectKeyFromObject(checkpoint), checkpoint); err != nil {
				return err
			}
			at, err := time.Parse(time.RFC3339Nano, checkpoint.Annotations[v1alpha1.AnnotationCheckpointRequested])
			if err == nil {
				sealed(42, ptr.To(metav1.NewMicroTime(at)))
			}
			return err
		})
	})
	shell.example("checkpoint", `curl -sK lifeboat.curl -X POST "$API/namespaces/shop/pods/cart-0/checkpoint?wait=30" | jq '{requestedAt, done, generation: .checkpoint.generation}'`, `"generation": 42`)
	played.Wait()

	shell.example("move", `curl -sK lifeboat.curl -H "Idempotency-Key: $(cat /proc/sys/kernel/random/uuid)" --json '{"pod": "cart-0"}' "$API/namespaces/shop/migrations" | jq`, `"strategy": "Live"`)
	migration := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0-2"}}
	played.Go(func() {
		for _, phase := range []v1alpha1.Phase{v1alpha1.PhaseAccepted, v1alpha1.PhasePrepared, v1alpha1.PhaseStopping, v1alpha1.PhaseStopped} {
			shell.pause()
			a.changed(migration, func() {
				migration.Status.Phase = phase
				migration.Status.Phases = append(migration.Status.Phases, v1alpha1.PhaseTime{Phase: phase, At: metav1.NowMicro()})
			})
		}
		shell.pause()
		a.changed(migration, func() { migration.Status.Phase, migration.Status.Result = v1alpha1.PhaseReady, v1alpha1.ResultRestored })
	})
	shell.example("events", `curl -sNK lifeboat.curl "$API/namespaces/shop/migrations/cart-0-2/events" |
  sed -n 's/^data: //p' | jq -c 'select(.migration) | [.type, .migration.status.phase, .migration.status.result]'`, `"Ready","Restored"]`)
	played.Wait()
	shell.example("closed", `curl -sK lifeboat.curl -X DELETE "$API/namespaces/shop/migrations/cart-0-2" | jq`, `"reason": "Closed"`)
	shell.example("forbidden", `curl -sK lifeboat.curl "$API/nodes" | jq`, `"reason": "Forbidden"`)
	shell.example("invalid", `curl -sK lifeboat.curl --json '{"pod": "cart-0", "strategy": "Fast"}' "$API/namespaces/shop/migrations" | jq`, `"reason": "Invalid"`)
}

// shell runs commands as a user has set them up by the reference.
type shell struct {
	*restAPI
	folder string
}

func (a *restAPI) shell(token string) *shell {
	s := &shell{restAPI: a, folder: a.t.TempDir()}
	authority, err := identity.Ensure(a.t.Context(), a.clientset, v1alpha1.SystemNamespace)
	if err != nil {
		a.t.Fatal(err)
	}
	for name, content := range map[string]string{
		"lifeboat-ca.crt": string(authority.CABundle()),
		"lifeboat.curl": "cacert = \"lifeboat-ca.crt\"\nconnect-to = \"::" + strings.TrimPrefix(a.replicas[0].url, "https://") + "\"\n" +
			"header = \"Authorization: Bearer " + token + "\"\n",
	} {
		if err := os.WriteFile(filepath.Join(s.folder, name), []byte(content), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return s
}

// pause is between two things that are played, so that a reader sees them apart.
func (s *shell) pause() { time.Sleep(300 * time.Millisecond) }

func (s *shell) run(command string) string {
	s.t.Helper()
	bash := exec.CommandContext(s.t.Context(), "bash", "-o", "pipefail", "-c", command)
	bash.Dir, bash.Env = s.folder, append(os.Environ(), "API=https://"+apiName+":8443/api/v1")
	output, err := bash.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", command, err, output)
	}
	return string(output)
}

// example runs an example, whose output has to have something in it.
func (s *shell) example(name, command, want string) {
	s.t.Helper()
	output := s.run(command)
	if !strings.Contains(output, want) {
		s.t.Fatalf("%s:\n%s\nwant %s", command, output, want)
	}
	const reference = "../../docs/reference/api.md"
	if *update {
		if err := marked.Write(reference, name, "```\n$ "+command+"\n"+output+"```"); err != nil {
			s.t.Fatal(err)
		}
	}
	content, err := os.ReadFile(reference)
	if err != nil || !strings.Contains(string(content), "```\n$ "+command+"\n") {
		s.t.Errorf("%s does not have the example %s as it is: go test ./cmd/lifeboat-watcher -run TestAPIExamples -update (%v)", reference, name, err)
	}
}
