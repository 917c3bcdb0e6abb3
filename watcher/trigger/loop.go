package trigger

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

// lookEvery is how often the nodes are looked at: a second of the shortest notice, which
// is half a minute, is little.
const lookEvery = time.Second

// Cluster tells of the nodes and their pods.
type Cluster interface {
	// Known is what is known of each node that has a fence record.
	Known() []decide.Node
	// Paused is why an operator has paused recoveries, empty if none has.
	Paused() string
	// ProtectedPods are the protected pods of a node that can be had elsewhere.
	ProtectedPods(ctx context.Context, node string) ([]corev1.Pod, error)
}

// Loop carries out what a Machine decides, as long as its watcher leads. All fields are
// required.
type Loop struct {
	Config   Config
	Cluster  Cluster
	Recorder *Recorder
	Events   events.EventRecorder
	Log      *slog.Logger
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (l *Loop) NeedLeaderElection() bool { return true }

// Start runs until ctx ends.
func (l *Loop) Start(ctx context.Context) error {
	machine := New(l.Config)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := l.look(ctx, machine); err != nil && ctx.Err() == nil {
			l.Log.Warn("pods of nodes that are taken back, or are short of something, are not looked for", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look lets the Machine decide once, and records what it wants moved.
func (l *Loop) look(ctx context.Context, machine *Machine) error {
	view, err := l.view(ctx)
	if err != nil {
		return err
	}
	for _, move := range machine.Step(time.Now(), view) {
		m, created, err := l.Recorder.Record(ctx, move.Pod, move.Ask, nil)
		if err != nil {
			l.Log.Warn("a pod's move is not recorded, and tried again", "pod", nameOf(move.Pod), "node", move.Pod.Spec.NodeName, "error", err)
			continue
		}
		if created {
			l.Log.Info("a pod is to be moved", "pod", nameOf(move.Pod), "node", move.Pod.Spec.NodeName, "reason", m.Spec.Reason, "migration", m.Name, "because", move.Because)
			l.Events.Eventf(move.Pod, m, corev1.EventTypeNormal, "MoveBegun", "Move",
				"The pod is to be moved (migration %s, %s), because %s.", m.Name, m.Spec.Reason, move.Because)
		}
	}
	return nil
}

// view is what the Machine is told. Pods and Migrations are read only where a node has a
// signal that matters.
func (l *Loop) view(ctx context.Context) (View, error) {
	view := View{Paused: l.Cluster.Paused()}
	matters := false
	for _, known := range l.Cluster.Known() {
		node := Node{Name: known.Fact.Node, Signals: known.Fact.Signals,
			Runs: known.Fact.State == detect.Alive && known.Fence.State == v1alpha1.FenceRunning}
		if node.Runs && view.Paused == "" && l.matters(node) {
			pods, err := l.Cluster.ProtectedPods(ctx, node.Name)
			if err != nil {
				return View{}, err
			}
			node.Pods, matters = pods, true
		}
		view.Nodes = append(view.Nodes, node)
	}
	if !matters {
		return view, nil
	}
	var migrations v1alpha1.MigrationList
	if err := l.Recorder.Client.List(ctx, &migrations, client.UnsafeDisableDeepCopy); err != nil {
		return View{}, fmt.Errorf("list migrations: %w", err)
	}
	view.Migrations = migrations.Items
	return view, nil
}

func (l *Loop) matters(node Node) bool {
	return l.Config.SpotInterruptions && has(node, v1alpha1.MigrationSpotInterruption) ||
		l.Config.Cordons && has(node, v1alpha1.MigrationNodeDrained) ||
		l.Config.Pressure && has(node, v1alpha1.MigrationNodePressure)
}
