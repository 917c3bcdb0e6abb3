package trigger

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

const tick = time.Second

var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a cluster in which moves are recorded at once, and end when the scenario says.
type world struct {
	out        io.Writer
	now        time.Time
	config     Config
	machine    *Machine
	nodes      []Node
	cordoned   map[string]bool
	pods       []corev1.Pod
	checkpoint map[string]*v1alpha1.Checkpoint
	migrations []v1alpha1.Migration
	paused     string
	made       int // how many pods there ever were
}

func newWorld(out io.Writer) *world {
	return &world{out: out, now: began, machine: New(Config{}), cordoned: map[string]bool{}, checkpoint: map[string]*v1alpha1.Checkpoint{}}
}

func (w *world) switchOn(triggers []string) error {
	for _, name := range triggers {
		switch name {
		case "evictions":
			w.config.Evictions = true
		case "spot":
			w.config.SpotInterruptions = true
		case "cordons":
			w.config.Cordons = true
		case "pressure":
			w.config.Pressure = true
		case "default":
			w.config = Default
		default:
			return fmt.Errorf("no trigger %q", name)
		}
	}
	w.machine = New(w.config)
	return nil
}

func (w *world) passed() time.Duration { return w.now.Sub(began) }

// until lets time pass.
func (w *world) until(then time.Time) {
	for w.now.Before(then) {
		w.step()
		w.now = w.now.Add(tick)
	}
}

// step lets the Machine decide, and records what it wants moved.
func (w *world) step() {
	view := View{Migrations: w.migrations, Paused: w.paused}
	for _, node := range w.nodes {
		for _, pod := range w.pods {
			if pod.Spec.NodeName == node.Name {
				node.Pods = append(node.Pods, pod)
			}
		}
		view.Nodes = append(view.Nodes, node)
	}
	for _, move := range w.machine.Step(w.now, view) {
		m := w.record(move.Pod, move.Ask)
		w.say("%s leaves %s: %s, %s within %s, because %s", move.Pod.Name, move.Pod.Spec.NodeName, m.Spec.Reason, m.Spec.Strategy,
			time.Duration(m.Spec.DeadlineSeconds)*time.Second, move.Because)
	}
}

func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.out, "        %s %s\n", w.passed(), fmt.Sprintf(format, args...))
}

func (w *world) record(pod *corev1.Pod, ask v1alpha1.Move) *v1alpha1.Migration {
	m := v1alpha1.NewMove(pod, ask, v1alpha1.NextEpoch(pod, nil, w.migrations), w.now)
	m.CreationTimestamp = metav1.NewTime(w.now)
	w.migrations = append(w.migrations, *m)
	return m
}

func (w *world) node(name string) *Node {
	for i := range w.nodes {
		if w.nodes[i].Name == name {
			return &w.nodes[i]
		}
	}
	return nil
}

func (w *world) pod(name string) *corev1.Pod {
	for i := range w.pods {
		if w.pods[i].Name == name {
			return &w.pods[i]
		}
	}
	return nil
}

// open is the open Migration of a pod, by the name that it had.
func (w *world) open(pod string) *v1alpha1.Migration {
	for i := range w.migrations {
		if m := &w.migrations[i]; m.Open() && m.Spec.Pod.Name == pod {
			return m
		}
	}
	return nil
}

// add makes a pod: pod NAME on NODE [priority=N] [strategy=S] [phase=P] [unprotected]
// [unadmitted] [owner=KIND].
func (w *world) add(name, node string, options []string) error {
	w.made++
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(fmt.Sprintf("uid-%d", w.made)), CreationTimestamp: metav1.NewTime(w.now),
			Annotations: map[string]string{v1alpha1.AnnotationFailover: "true"}},
		Spec:   corev1.PodSpec{NodeName: node, RuntimeClassName: ptr.To(v1alpha1.RuntimeClassName)},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "priority":
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil {
				return err
			}
			pod.Spec.Priority = ptr.To(int32(n))
		case "strategy":
			pod.Annotations[v1alpha1.AnnotationStrategy] = value
		case "phase":
			pod.Status.Phase = corev1.PodPhase(value)
		case "unprotected":
			pod.Annotations = nil
		case "unadmitted":
			pod.Spec.RuntimeClassName = nil
		case "owner":
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: value, Name: "o", Controller: ptr.To(true)}}
		default:
			return fmt.Errorf("no option %q", option)
		}
	}
	w.pods = append(w.pods, pod)
	return nil
}

// do carries out one command of a scenario.
func (w *world) do(args []string) error {
	if slices.Contains([]string{"reaches", "arrives", "closes"}, args[0]) && w.open(args[1]) == nil {
		return fmt.Errorf("pod %s is not moved", args[1])
	}
	switch command, args := args[0], args[1:]; command {
	case "nodes":
		for _, name := range args {
			w.nodes = append(w.nodes, Node{Name: name, Runs: true})
		}
	case "end":
	case "leader": // another one takes over, and remembers nothing
		w.machine = New(w.config)
	case "pause":
		w.paused = strings.Join(args, " ")
	case "resume":
		w.paused = ""
	case "pod":
		return w.add(args[0], args[2], args[3:])
	case "lost":
		w.node(args[0]).Runs = false
	case "cordon":
		w.cordoned[args[0]] = true
		return w.do([]string{"signal", args[0], "NodeDrained", "0s", "it", "is", "cordoned"})
	case "signal": // signal n1 SpotInterruption 2m it is tainted x
		notice, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		n := w.node(args[0])
		n.Signals = append(slices.Clone(n.Signals), detect.Signal{Reason: v1alpha1.MigrationReason(args[1]), Message: strings.Join(args[3:], " "), Notice: notice})
	case "quiet": // quiet n1 NodePressure: the signal is no more
		n := w.node(args[0])
		n.Signals = slices.DeleteFunc(slices.Clone(n.Signals), func(s detect.Signal) bool { return string(s.Reason) == args[1] })
	case "refuses": // the pod cannot be checkpointed
		pod := w.pod(args[0])
		w.checkpoint[pod.Name] = &v1alpha1.Checkpoint{Spec: v1alpha1.CheckpointSpec{PodUID: pod.UID}, Status: v1alpha1.CheckpointStatus{
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionCheckpointable, Status: metav1.ConditionFalse, Reason: args[1], Message: "io_uring is in use"}}}}
	case "migrate": // somebody asks for a move
		w.record(w.pod(args[0]), v1alpha1.Move{Reason: v1alpha1.MigrationRequested})
	case "reaches": // reaches cart-0 Stopping
		m := w.open(args[0])
		m.Status.Phase = v1alpha1.Phase(args[1])
		m.Status.Phases = append(m.Status.Phases, v1alpha1.PhaseTime{Phase: m.Status.Phase, At: metav1.NewMicroTime(w.now)})
	case "arrives": // arrives cart-0 on n2 [as cart-x]: the successor exists, and has claimed
		return w.arrive(args[0], args[2], args[3:])
	case "closes": // closes cart-0 Restored | closes cart-0 Withdrawn SourceFailed
		m := w.open(args[0])
		m.Status.Result = v1alpha1.Result(args[1])
		if len(args) > 2 {
			m.Status.Reason, m.Status.Message = args[2], "so it is"
		}
	case "evict": // evict cart-0 [uid] [dry-run]
		w.evict(args[0], args[1:])
	default:
		return fmt.Errorf("unknown command %q", command)
	}
	return nil
}

func (w *world) arrive(name, node string, as []string) error {
	m := w.open(name)
	w.pods = slices.DeleteFunc(w.pods, func(p corev1.Pod) bool { return p.UID == m.Spec.Pod.UID })
	if len(as) > 0 {
		name = as[1]
	}
	if err := w.add(name, node, nil); err != nil {
		return err
	}
	m.Status.Claim = &v1alpha1.Claim{PodName: name, PodUID: w.pod(name).UID, NodeName: node}
	m.Status.Phase = v1alpha1.PhaseScheduled
	m.Status.Phases = append(m.Status.Phases, v1alpha1.PhaseTime{Phase: v1alpha1.PhaseDeleted, At: metav1.NewMicroTime(w.now)},
		v1alpha1.PhaseTime{Phase: v1alpha1.PhaseScheduled, At: metav1.NewMicroTime(w.now)})
	return nil
}

// evict asks for an eviction, and does what the answer wants done.
func (w *world) evict(name string, options []string) {
	e := Eviction{Namespace: "shop", Name: name, Pod: w.pod(name), Checkpoint: w.checkpoint[name], Migrations: w.migrations, DryRun: slices.Contains(options, "dry-run")}
	if e.Pod != nil {
		e.NodeRuns, e.Cordoned = w.node(e.Pod.Spec.NodeName).Runs, w.cordoned[e.Pod.Spec.NodeName]
		if slices.Contains(options, "uid") {
			e.UID = e.Pod.UID
		}
	}
	answer := JudgeEviction(e, w.now)
	note := map[string]string{AnnotationEvicted: w.now.Format(time.RFC3339)}
	switch {
	case answer.Kind == Begin:
		m := w.record(e.Pod, v1alpha1.Move{Reason: v1alpha1.MigrationNodeDrained})
		w.migrations[len(w.migrations)-1].Annotations = note
		answer.Message = m.Name + " is recorded"
	case answer.Note:
		answer.Migration.Annotations = note
		answer.Message += "; noted"
	}
	again := ""
	if answer.RetryAfter > 0 {
		again = fmt.Sprintf(" for %s", answer.RetryAfter)
	}
	if answer.Message != "" {
		answer.Message = ": " + answer.Message
	}
	w.say("%s%s%s", answer.Kind, again, answer.Message)
}
