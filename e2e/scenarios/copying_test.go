package scenarios

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// Where moves that copy the last generation before the pod ends are when they are broken:
// two of them copy it, and of the third the new pod runs and is not Ready yet.
const (
	cold = "cold"
	warm = "warm"
)

const (
	// copyBytes of checkpoints leave a node in a second, so that noiseBytes, which do not get
	// smaller when they are compressed, keep a copy under way for some seconds.
	copyBytes  = 1 << 20
	noiseBytes = 8 << 20
)

// TestMoveIsBrokenWhileItIsCopied breaks a cold and a warm move while their pods stand
// still and their last generation is on its way to the node that is to hold it, and a warm
// one whose new pod is not Ready yet.
func TestMoveIsBrokenWhileItIsCopied(t *testing.T) {
	scene(t, "copying")
	watchersWith(t, "--moves-per-node=8")
	agentsWith(t, fmt.Sprintf("--copy-bytes=%d", copyBytes))
	lost := end{v1alpha1.ResultFailed, v1alpha1.ReasonSourceLost}
	for _, test := range []breakage{
		{"cancelled, and the watcher is killed", cancelAll, map[string]end{cold: goesOn, warm: goesOn, running: goesOn}, nil},
		// Another node takes the copies.
		{"the node that is copied to is lost", targetLost, map[string]end{cold: goesOn, warm: goesOn,
			running: {v1alpha1.ResultFailed, v1alpha1.ReasonPodReplaced}}, []string{running}},
		{"the source is lost", sourceLost, map[string]end{cold: lost, warm: lost, running: goesOn}, []string{cold, warm}},
	} {
		t.Run(test.name, func(t *testing.T) {
			breakMoves(t, test, running, map[string]string{cold: "", warm: "", running: ""}, copying)
		})
	}
}

// copying begins the moves, and returns when all of them are where they are to be.
func copying(t *testing.T, instances map[string]*instance) map[string]*v1alpha1.Migration {
	t.Helper()
	moves := map[string]*v1alpha1.Migration{}
	begin := func(name string, strategy v1alpha1.Strategy) {
		moves[name] = newMove(t, instances[name].pod, strategy)
		moves[name].Spec.TargetNode = target // it is the first to be asked to hold a copy
		create(t, moves[name])
	}
	begin(running, v1alpha1.StrategyWarm)
	isRunning(t, moves[running])
	for _, name := range []string{cold, warm} {
		noise := make([]byte, noiseBytes)
		rand.Read(noise)
		if answer := command[string](t, connect(t, instances[name].pod), "SET", "noise", string(noise)); answer != "OK" {
			t.Fatalf("redis answers SET with %q", answer)
		}
	}
	begin(cold, v1alpha1.StrategyCold)
	begin(warm, v1alpha1.StrategyWarm)
	for _, name := range []string{cold, warm} {
		isCopied(t, moves[name])
	}
	for name, m := range moves {
		if err := api.Get(deadline(t), client.ObjectKeyFromObject(m), m); err != nil {
			t.Fatal(err)
		}
		if !m.Open() || name != running && m.SourceStopped() || m.Reached(v1alpha1.PhaseReady) {
			t.Fatalf("%s has gone on too early: %+v", name, m.Status)
		}
	}
	return moves
}

// isCopied waits until the source has a generation from after it began to stop the pod, and
// the target, where the copy goes, has begun to receive it.
func isCopied(t *testing.T, m *v1alpha1.Migration) {
	t.Helper()
	reached(t, m, v1alpha1.PhaseStopping)
	newer := func(ctx context.Context, node, kind string) (string, error) {
		const find = `cd /var/lib/lifeboat/%s/%s 2>/dev/null || exit 0; find . -type f %s -newermt @%d.%09d`
		at := m.Status.Source.BeganAt
		out, err := lab.NodeExec(ctx, node, "sh", "-c", fmt.Sprintf(find, m.Namespace, m.Spec.Pod.UID, kind, at.Unix(), at.Nanosecond()))
		return strings.TrimSpace(string(out)), err
	}
	err := observe.Until(deadline(t), "the last generation of "+m.Spec.Pod.Name+" is copied", func(ctx context.Context) (bool, string, error) {
		if err := api.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil {
			return false, "", err
		}
		if s := m.Status.Source; s == nil || s.BeganAt == nil {
			return false, "its stop has not begun", nil
		}
		sealed, err := newer(ctx, source, "-name '*.man'")
		if err != nil {
			return false, "", err
		}
		arrives, err := newer(ctx, target, "")
		return sealed != "" && arrives != "", fmt.Sprintf("%s has %q, %s has %q", source, sealed, target, arrives), err
	})
	if err != nil {
		t.Fatal(err)
	}
}
