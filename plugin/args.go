package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// ArgsKind is the kind of the plugin's arguments. Their apiVersion is
// v1alpha1.GroupVersion.
const ArgsKind = "LifeboatArgs"

// Args are the arguments of the plugin, under pluginConfig in a
// KubeSchedulerConfiguration. What is left out has its default.
type Args struct {
	metav1.TypeMeta `json:",inline"`

	// HoldPods keeps a pod out of the scheduling queue while its Migration is
	// being prepared or looked for. Without it the pod is tried, and refused with
	// the reason in its condition. Default true.
	HoldPods *bool `json:"holdPods,omitempty"`
	// DomainLabel is the label of a node that names its failure domain; "" means
	// that there are none. Default topology.kubernetes.io/zone.
	DomainLabel *string `json:"domainLabel,omitempty"`
	// LocalBytesPerSecond is how fast memory is filled in from a node's own store
	// where the node has not shown it yet. Default 1500M.
	LocalBytesPerSecond *resource.Quantity `json:"localBytesPerSecond,omitempty"`
	// RemoteBytesPerSecond is the same from another node. Default 400M.
	RemoteBytesPerSecond *resource.Quantity `json:"remoteBytesPerSecond,omitempty"`
	// StartTime is what a restore takes on any node, without its memory. Default 500ms.
	StartTime *metav1.Duration `json:"startTime,omitempty"`
	// RemoteStartTime is what it takes longer when another node has the
	// checkpoint. It also stands for the risk of needing that node. Default 250ms.
	RemoteStartTime *metav1.Duration `json:"remoteStartTime,omitempty"`
	// ImagePullTime is what each container image takes that a node lacks. Default 10s.
	ImagePullTime *metav1.Duration `json:"imagePullTime,omitempty"`
	// FailureTime is what a failed restore costs. Default 5s.
	FailureTime *metav1.Duration `json:"failureTime,omitempty"`
	// FailureHalfLife is after which time a failed restore counts half. Default 10m.
	FailureHalfLife *metav1.Duration `json:"failureHalfLife,omitempty"`
	// PressureTime is what each pressure condition of a node costs. Default 2s.
	PressureTime *metav1.Duration `json:"pressureTime,omitempty"`
	// SameDomainTime is what it counts that a node is in the failure domain of the
	// lost node. Default 500ms.
	SameDomainTime *metav1.Duration `json:"sameDomainTime,omitempty"`
}

// ParseArgs reads the plugin's arguments, sets defaults and validates them. nil
// gives the defaults. Errors name the field.
func ParseArgs(from runtime.Object) (*Args, error) {
	args := &Args{}
	switch from := from.(type) {
	case nil:
	case *runtime.Unknown:
		if err := args.decode(from.Raw); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("args of plugin %s are of type %T, not %s of %s", Name, from, ArgsKind, v1alpha1.GroupVersion)
	}
	args.setDefaults()
	if errs := args.validate(); len(errs) > 0 {
		return nil, fmt.Errorf("args of plugin %s: %w", Name, errs.ToAggregate())
	}
	return args, nil
}

func (a *Args) decode(raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	// The version comes first: of another one no other field can be judged.
	if err := json.Unmarshal(raw, &a.TypeMeta); err != nil {
		return fmt.Errorf("args of plugin %s: %w", Name, err)
	}
	var errs field.ErrorList
	if want := v1alpha1.GroupVersion.String(); a.APIVersion != want {
		errs = append(errs, field.NotSupported(path("apiVersion"), a.APIVersion, []string{want}))
	}
	if a.Kind != ArgsKind {
		errs = append(errs, field.NotSupported(path("kind"), a.Kind, []string{ArgsKind}))
	}
	if len(errs) > 0 {
		return fmt.Errorf("args of plugin %s: %w", Name, errs.ToAggregate())
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(a); err != nil {
		return fmt.Errorf("args of plugin %s: %w", Name, err)
	}
	return nil
}

// path is where a field stands in the plugin's entry of pluginConfig.
func path(name string) *field.Path { return field.NewPath("args", name) }

func orDefault[T any](value **T, otherwise T) {
	if *value == nil {
		*value = &otherwise
	}
}

func (a *Args) setDefaults() {
	orDefault(&a.HoldPods, true)
	orDefault(&a.DomainLabel, corev1.LabelTopologyZone)
	// What make bench-restore showed, rounded down.
	orDefault(&a.LocalBytesPerSecond, resource.MustParse("1500M"))
	orDefault(&a.RemoteBytesPerSecond, resource.MustParse("400M"))
	for _, d := range []struct {
		value     **metav1.Duration
		otherwise time.Duration
	}{
		{&a.StartTime, 500 * time.Millisecond},
		{&a.RemoteStartTime, 250 * time.Millisecond},
		{&a.ImagePullTime, 10 * time.Second},
		{&a.FailureTime, 5 * time.Second},
		{&a.FailureHalfLife, 10 * time.Minute},
		{&a.PressureTime, 2 * time.Second},
		{&a.SameDomainTime, 500 * time.Millisecond},
	} {
		orDefault(d.value, metav1.Duration{Duration: d.otherwise})
	}
}

func (a *Args) validate() (errs field.ErrorList) {
	if label := *a.DomainLabel; label != "" {
		for _, problem := range validation.IsQualifiedName(label) {
			errs = append(errs, field.Invalid(path("domainLabel"), label, problem))
		}
	}
	for _, rate := range []struct {
		name  string
		value *resource.Quantity
	}{{"localBytesPerSecond", a.LocalBytesPerSecond}, {"remoteBytesPerSecond", a.RemoteBytesPerSecond}} {
		if rate.value.Sign() <= 0 {
			errs = append(errs, field.Invalid(path(rate.name), rate.value.String(), "must be greater than 0"))
		}
	}
	for _, d := range []struct {
		name  string
		value *metav1.Duration
		zero  bool // may be 0
	}{
		{"startTime", a.StartTime, false},
		{"remoteStartTime", a.RemoteStartTime, true},
		{"imagePullTime", a.ImagePullTime, true},
		{"failureTime", a.FailureTime, true},
		{"failureHalfLife", a.FailureHalfLife, false},
		{"pressureTime", a.PressureTime, true},
		{"sameDomainTime", a.SameDomainTime, true},
	} {
		switch {
		case d.value.Duration < 0:
			errs = append(errs, field.Invalid(path(d.name), d.value.Duration.String(), "must not be negative"))
		case d.value.Duration == 0 && !d.zero:
			errs = append(errs, field.Invalid(path(d.name), d.value.Duration.String(), "must be greater than 0"))
		}
	}
	return errs
}
