package v1alpha1

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"
)

// The annotations that a user writes on a pod.
const (
	// AnnotationFailover set to "true" protects the pod.
	AnnotationFailover = "lifeboat.dev/failover"
	// AnnotationInterval is the time between two checkpoints, as "30s".
	AnnotationInterval = "lifeboat.dev/interval"
	// AnnotationReplicas is how many nodes beside the pod's own must hold a
	// generation before it counts as durable.
	AnnotationReplicas = "lifeboat.dev/replicas"
	// AnnotationVolumes says what a writable persistent volume means for a
	// failover: "protect" starts the pod cold, "ignore" restores its memory.
	AnnotationVolumes = "lifeboat.dev/volumes"
	// AnnotationStrategy is how the pod moves on purpose: "cold", "warm", "live" or
	// "application".
	AnnotationStrategy = "lifeboat.dev/strategy"
	// AnnotationPreCheckpoint is a hook, see ParseHook, that is called before the pod
	// is stopped for a planned move.
	AnnotationPreCheckpoint = "lifeboat.dev/pre-checkpoint"
	// AnnotationPostRestore is a hook that is called in the pod that was restored.
	AnnotationPostRestore = "lifeboat.dev/post-restore"
	// AnnotationStateExport and AnnotationStateImport are the HTTP hooks between which
	// an application hands over its state.
	AnnotationStateExport = "lifeboat.dev/state-export"
	AnnotationStateImport = "lifeboat.dev/state-import"
	// AnnotationConnections says what becomes of the pod's established connections in a
	// planned move: "close" ends them, "keep" has the pod take its address along for them.
	AnnotationConnections = "lifeboat.dev/connections"

	annotationPrefix = "lifeboat.dev/"
)

const (
	// SchedulerName is the scheduler profile that places protected pods.
	SchedulerName = "lifeboat-scheduler"
	// RuntimeClassName is the RuntimeClass, and RuntimeHandler the handler in
	// containerd's configuration, that start and restore protected pods.
	RuntimeClassName = "lifeboat"
	RuntimeHandler   = "lifeboat"
	// SystemNamespace is where Lifeboat's own pods and Secrets are.
	SystemNamespace = "lifeboat-system"
)

// Volumes says what a writable persistent volume means for a failover.
type Volumes string

// The values of AnnotationVolumes.
const (
	VolumesProtect Volumes = "protect"
	VolumesIgnore  Volumes = "ignore"
)

// Connections says what becomes of established connections in a planned move.
type Connections string

// The values of AnnotationConnections.
const (
	ConnectionsClose Connections = "close"
	ConnectionsKeep  Connections = "keep"
)

// Bounds and defaults of the annotations.
const (
	DefaultInterval = 30 * time.Second
	MinInterval     = time.Second
	MaxInterval     = 24 * time.Hour
	DefaultReplicas = 1
	MaxReplicas     = 8
)

// Protection is what a pod's annotations ask for.
type Protection struct {
	// Protected is whether the pod opted in.
	Protected bool
	Interval  time.Duration
	Replicas  int
	Volumes   Volumes
	// Strategy is how the pod moves on purpose.
	Strategy Strategy
	// Connections is what a move makes of established connections.
	Connections Connections
	// The hooks; nil where there is none.
	PreCheckpoint, PostRestore, StateExport, StateImport *Hook
}

// AnnotationError is an annotation whose value is not allowed.
type AnnotationError struct {
	Key, Value, Allowed string
}

func (e *AnnotationError) Error() string {
	return fmt.Sprintf("annotation %s: %q is not allowed; use %s", e.Key, e.Value, e.Allowed)
}

// AnnotationErrors are all wrong annotations of one pod, sorted by key.
type AnnotationErrors []*AnnotationError

func (es AnnotationErrors) Error() string {
	texts := make([]string, len(es))
	for i, e := range es {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "; ")
}

// parsers has one entry for each annotation: what is allowed, and how a value
// is read into a Protection. A parser returns false for a value that is not allowed.
var parsers = map[string]struct {
	allowed string
	parse   func(value string, p *Protection) bool
}{
	AnnotationFailover: {`"true" or "false"`, func(v string, p *Protection) bool {
		p.Protected = v == "true"
		return v == "true" || v == "false"
	}},
	AnnotationInterval: {fmt.Sprintf("a duration from %s to %s, as %q", MinInterval, MaxInterval, DefaultInterval), func(v string, p *Protection) bool {
		d, err := time.ParseDuration(v)
		p.Interval = d
		return err == nil && d >= MinInterval && d <= MaxInterval
	}},
	AnnotationReplicas: {fmt.Sprintf("a whole number from 1 to %d", MaxReplicas), func(v string, p *Protection) bool {
		n, err := strconv.Atoi(v)
		p.Replicas = n
		return err == nil && n >= 1 && n <= MaxReplicas
	}},
	AnnotationVolumes: {fmt.Sprintf("%q or %q", VolumesProtect, VolumesIgnore), func(v string, p *Protection) bool {
		p.Volumes = Volumes(v)
		return p.Volumes == VolumesProtect || p.Volumes == VolumesIgnore
	}},
	AnnotationConnections: {fmt.Sprintf("%q or %q", ConnectionsClose, ConnectionsKeep), func(v string, p *Protection) bool {
		p.Connections = Connections(v)
		return p.Connections == ConnectionsClose || p.Connections == ConnectionsKeep
	}},
	AnnotationStrategy: {`"cold", "warm", "live" or "application"`, func(v string, p *Protection) bool {
		p.Strategy = map[string]Strategy{"cold": StrategyCold, "warm": StrategyWarm, "live": StrategyLive, "application": StrategyApplication}[v]
		return p.Strategy != ""
	}},
	AnnotationPreCheckpoint: {hookForms, func(v string, p *Protection) (ok bool) { p.PreCheckpoint, ok = ParseHook(v); return ok }},
	AnnotationPostRestore:   {hookForms, func(v string, p *Protection) (ok bool) { p.PostRestore, ok = ParseHook(v); return ok }},
	AnnotationStateExport:   {stateForms, func(v string, p *Protection) (ok bool) { p.StateExport, ok = parseStateHook(v); return ok }},
	AnnotationStateImport:   {stateForms, func(v string, p *Protection) (ok bool) { p.StateImport, ok = parseStateHook(v); return ok }},
}

const stateForms = `[container=NAME] [timeout=DURATION] "http PORT/PATH"`

// parseStateHook reads a hook that has to be an HTTP request.
func parseStateHook(value string) (*Hook, bool) {
	hook, ok := ParseHook(value)
	return hook, ok && hook.Command == nil
}

// ParseAnnotations reads what a pod's annotations ask for. Where a value or a
// key under lifeboat.dev/ is not allowed it returns AnnotationErrors that name
// each one, and a Protection that must not be used.
func ParseAnnotations(annotations map[string]string) (Protection, error) {
	p := Protection{Interval: DefaultInterval, Replicas: DefaultReplicas, Volumes: VolumesProtect, Strategy: StrategyLive, Connections: ConnectionsClose}
	var errs AnnotationErrors
	for key, value := range annotations {
		if !strings.HasPrefix(key, annotationPrefix) {
			continue
		}
		parser, known := parsers[key]
		if !known {
			errs = append(errs, &AnnotationError{key, value, "one of the keys " + strings.Join(annotationKeys(), ", ")})
			continue
		}
		if !parser.parse(value, &p) {
			errs = append(errs, &AnnotationError{key, value, parser.allowed})
		}
	}
	if len(errs) > 0 {
		sort.Slice(errs, func(i, j int) bool { return errs[i].Key < errs[j].Key })
		return p, errs
	}
	return p, nil
}

func annotationKeys() []string {
	keys := make([]string, 0, len(parsers))
	for key := range parsers {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
