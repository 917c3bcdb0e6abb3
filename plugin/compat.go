package plugin

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// oldestCRIU is the first CRIU release whose restore Lifeboat supports.
var oldestCRIU = version.MajorMinor(4, 1)

// namedFeatures is how many missing processor features a message names.
const namedFeatures = 4

// Compatible says why a node with the facts target cannot restore a checkpoint
// made on a node with the facts source; it returns "" when it can. A fact that
// is not known of the source demands nothing of the target. The reason names no
// node, so that the scheduler can add up the nodes it applies to.
func Compatible(source, target v1alpha1.NodeFacts) string {
	checks := []func(source, target v1alpha1.NodeFacts) string{
		compatibleArchitecture, compatibleCRIU, compatibleKernel, compatibleProcessor,
	}
	for _, check := range checks {
		if reason := check(source, target); reason != "" {
			return reason
		}
	}
	return ""
}

func compatibleArchitecture(source, target v1alpha1.NodeFacts) string {
	if source.Architecture == "" || source.Architecture == target.Architecture {
		return ""
	}
	if target.Architecture == "" {
		return "its checkpointer has not reported the architecture"
	}
	return fmt.Sprintf("its architecture is %s, the checkpoint's %s", target.Architecture, source.Architecture)
}

// compatibleCRIU: a newer CRIU reads the images of an older one, not the reverse.
func compatibleCRIU(source, target v1alpha1.NodeFacts) string {
	if target.CRIUVersion == "" {
		if target.Message != "" {
			return "CRIU does not work there: " + target.Message
		}
		return "CRIU does not work there"
	}
	has, err := version.ParseGeneric(target.CRIUVersion)
	if err != nil {
		return fmt.Sprintf("its CRIU version %q cannot be read", target.CRIUVersion)
	}
	if has.LessThan(oldestCRIU) {
		return fmt.Sprintf("CRIU %s is older than %s, the oldest that is supported", target.CRIUVersion, oldestCRIU)
	}
	if needs, err := version.ParseGeneric(source.CRIUVersion); err == nil && has.LessThan(needs) {
		return fmt.Sprintf("CRIU %s is older than %s that made the checkpoint", target.CRIUVersion, source.CRIUVersion)
	}
	return ""
}

// compatibleKernel compares major and minor only: what a process can hold open
// or have mapped grows with the kernel's releases, not with their patches.
func compatibleKernel(source, target v1alpha1.NodeFacts) string {
	needs, err := version.ParseGeneric(source.KernelVersion)
	if err != nil {
		return ""
	}
	has, err := version.ParseGeneric(target.KernelVersion)
	if err != nil {
		return fmt.Sprintf("its kernel version %q cannot be read", target.KernelVersion)
	}
	if version.MajorMinor(has.Major(), has.Minor()).LessThan(version.MajorMinor(needs.Major(), needs.Minor())) {
		return fmt.Sprintf("kernel %s is older than %s that ran the pod", target.KernelVersion, source.KernelVersion)
	}
	return ""
}

// compatibleProcessor: libraries choose instructions once, at start, and keep
// using them after a restore.
func compatibleProcessor(source, target v1alpha1.NodeFacts) string {
	if len(source.CPUFeatures) == 0 || len(target.CPUFeatures) == 0 {
		return ""
	}
	has := make(map[string]bool, len(target.CPUFeatures))
	for _, feature := range target.CPUFeatures {
		has[feature] = true
	}
	var missing []string
	for _, feature := range source.CPUFeatures {
		if !has[feature] {
			missing = append(missing, feature)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	named := strings.Join(missing[:min(namedFeatures, len(missing))], ", ")
	if more := len(missing) - namedFeatures; more > 0 {
		named = fmt.Sprintf("%s and %d more", named, more)
	}
	return fmt.Sprintf("its processor lacks %s, which the pod may use", named)
}
