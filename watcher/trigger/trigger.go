// Package trigger says when protected pods are moved on purpose although nobody has
// asked for it: their node is taken back, is short of something, is cordoned, or
// somebody evicts them. The judgement is pure: what is known and a time go in, moves
// come out. Carrying a move out is to record a planned Migration, and nothing else; the
// controller of Migrations keeps limits and budgets.
//
// docs/reference/triggers.md lists the triggers.
package trigger

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

// Config is which triggers move pods.
type Config struct {
	// Evictions answers an eviction of a protected pod with a move.
	Evictions bool
	// SpotInterruptions moves all protected pods off a node that the cloud takes back.
	SpotInterruptions bool
	// Cordons moves all protected pods off a node that is cordoned or drained. Without
	// it they stay until somebody evicts them.
	Cordons bool
	// Pressure moves protected pods, one at a time, off a node that is short of memory,
	// disk, processes or processor time.
	Pressure bool
}

// Default moves the pods that would else be ended: those of a spot instance that is
// taken back, and those that are evicted.
var Default = Config{Evictions: true, SpotInterruptions: true}

// View is everything that is known.
type View struct {
	Nodes      []Node
	Migrations []v1alpha1.Migration
	// Paused is why an operator has paused recoveries, empty if none has. Then nothing is
	// moved either, but what is evicted: somebody asks for that.
	Paused string
}

// Node is what is known of one node.
type Node struct {
	Name string
	// Runs is whether it lives and may run protected pods. From a node that does not,
	// nothing is moved on purpose: a failover sees to its pods.
	Runs bool
	// Signals are those of detect.Fact.
	Signals []detect.Signal
	// Pods are the protected pods there. They are read alone.
	Pods []corev1.Pod
}

// Move is a pod that is to be moved.
type Move struct {
	Pod *corev1.Pod
	Ask v1alpha1.Move
	// Because says why, in words for an event.
	Because string
}

const (
	// shortNotice is the notice below which a live move becomes a warm one: after a
	// live move memory is still fetched from the node, which may be gone by then.
	shortNotice = time.Minute
	// leastDeadline is the time that must be left to begin a move at all.
	leastDeadline = 5 * time.Second
)

// Machine decides. It remembers since when it has seen what; all else it takes from the
// Migrations, so that one that takes over does not begin anew. It is not safe for use
// from several goroutines.
type Machine struct {
	config Config
	// since is when a signal was first seen, and pressed since when a node was short of
	// something without a break.
	since   map[sign]time.Time
	pressed map[string]time.Time
}

type sign struct {
	node   string
	signal detect.Signal
}

// New returns a Machine that has seen nothing yet.
func New(config Config) *Machine {
	return &Machine{config: config, since: map[sign]time.Time{}, pressed: map[string]time.Time{}}
}

// Step says which pods are to be moved now. It may name a pod again until a Migration of
// it is known.
func (m *Machine) Step(now time.Time, view View) []Move {
	m.remember(now, view.Nodes)
	if view.Paused != "" {
		return nil
	}
	var moves []Move
	for _, node := range view.Nodes {
		if !node.Runs {
			continue
		}
		switch m.emptiedBy(node) {
		case v1alpha1.MigrationSpotInterruption:
			moves = append(moves, m.interrupted(now, node, view.Migrations)...)
		case v1alpha1.MigrationNodeDrained:
			moves = append(moves, drained(now, node, view.Migrations)...)
		}
	}
	if m.config.Pressure {
		moves = append(moves, m.relieve(now, view)...)
	}
	return moves
}

func (m *Machine) remember(now time.Time, nodes []Node) {
	since, pressed := map[sign]time.Time{}, map[string]time.Time{}
	for _, node := range nodes {
		for _, signal := range node.Signals {
			s := sign{node.Name, signal}
			since[s] = now
			if before, known := m.since[s]; known {
				since[s] = before
			}
		}
		if has(node, v1alpha1.MigrationNodePressure) {
			pressed[node.Name] = now
			if before, known := m.pressed[node.Name]; known {
				pressed[node.Name] = before
			}
		}
	}
	m.since, m.pressed = since, pressed
}

// interrupted moves all pods of a node that the cloud takes back, the weightiest first.
// A quarter of the notice is kept for what comes after a pod is stopped.
func (m *Machine) interrupted(now time.Time, node Node, migrations []v1alpha1.Migration) []Move {
	signal, left := m.soonest(now, node)
	if left < leastDeadline {
		return nil // what is begun now would be cut off halfway
	}
	pods := movable(node.Pods)
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(priority(b), priority(a)) })
	var moves []Move
	for _, pod := range pods {
		if !pastOf(pod, v1alpha1.MigrationSpotInterruption, migrations, now).mayBegin(now) {
			continue
		}
		ask := v1alpha1.Move{Reason: v1alpha1.MigrationSpotInterruption, Deadline: left}
		if strategy := v1alpha1.StrategyOf(pod); strategy == v1alpha1.StrategyLive && signal.Notice > 0 && signal.Notice < shortNotice {
			ask.Strategy = v1alpha1.StrategyWarm
		}
		moves = append(moves, Move{Pod: pod, Ask: ask, Because: fmt.Sprintf("node %s is taken back: %s", node.Name, signal.Message)})
	}
	return moves
}

// soonest is the interruption that leaves the least time, and how much of it pods may
// take until they are stopped.
func (m *Machine) soonest(now time.Time, node Node) (soonest detect.Signal, left time.Duration) {
	left = -1
	for _, signal := range node.Signals {
		if signal.Reason != v1alpha1.MigrationSpotInterruption {
			continue
		}
		of := v1alpha1.DefaultDeadline
		if signal.Notice > 0 {
			of = max(0, m.since[sign{node.Name, signal}].Add(signal.Notice*3/4).Sub(now))
		}
		if left < 0 || of < left {
			soonest, left = signal, of
		}
	}
	return soonest, left
}

// drained moves all pods off a node that is to be empty.
func drained(now time.Time, node Node, migrations []v1alpha1.Migration) []Move {
	var moves []Move
	for _, pod := range movable(node.Pods) {
		if pastOf(pod, v1alpha1.MigrationNodeDrained, migrations, now).mayBegin(now) {
			moves = append(moves, Move{Pod: pod, Ask: v1alpha1.Move{Reason: v1alpha1.MigrationNodeDrained},
				Because: fmt.Sprintf("node %s is to be empty: %s", node.Name, messageOf(node, v1alpha1.MigrationNodeDrained))})
		}
	}
	return moves
}

// emptiedBy is why all pods are moved off a node, empty where they are not.
func (m *Machine) emptiedBy(node Node) v1alpha1.MigrationReason {
	switch {
	case m.config.SpotInterruptions && has(node, v1alpha1.MigrationSpotInterruption):
		return v1alpha1.MigrationSpotInterruption
	case m.config.Cordons && has(node, v1alpha1.MigrationNodeDrained):
		return v1alpha1.MigrationNodeDrained
	}
	return ""
}

func has(node Node, reason v1alpha1.MigrationReason) bool {
	return slices.ContainsFunc(node.Signals, func(s detect.Signal) bool { return s.Reason == reason })
}

// messageOf is that of the first signal of a reason.
func messageOf(node Node, reason v1alpha1.MigrationReason) string {
	for _, signal := range node.Signals {
		if signal.Reason == reason {
			return signal.Message
		}
	}
	return ""
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}
