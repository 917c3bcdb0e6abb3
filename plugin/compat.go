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
	from, to := parseFacts(source), parseFacts(target)
	return incompatible(&from, &to)
}

func incompatible(source, target *facts) string {
	if reason := compatibleArchitecture(source, target); reason != "" {
		return reason
	}
	if reason := compatibleCRIU(source, target); reason != "" {
		return reason
	}
	if reason := compatibleKernel(source, target); reason != "" {
		return reason
	}
	return compatibleProcessor(source, target)
}

func compatibleArchitecture(source, target *facts) string {
	if source.Architecture == "" || source.Architecture == target.Architecture {
		return ""
	}
	if target.Architecture == "" {
		return "its checkpointer has not reported the architecture"
	}
	return fmt.Sprintf("its architecture is %s, the checkpoint's %s", target.Architecture, source.Architecture)
}

// compatibleCRIU: a newer CRIU reads the images of an older one, not the reverse.
func compatibleCRIU(source, target *facts) string {
	switch {
	case target.CRIUVersion == "" && target.Message != "":
		return "CRIU does not work there: " + target.Message
	case target.CRIUVersion == "":
		return "CRIU does not work there"
	case target.criu == nil:
		return fmt.Sprintf("its CRIU version %q cannot be read", target.CRIUVersion)
	case target.criu.LessThan(oldestCRIU):
		return fmt.Sprintf("CRIU %s is older than %s, the oldest that is supported", target.CRIUVersion, oldestCRIU)
	case source.criu != nil && target.criu.LessThan(source.criu):
		return fmt.Sprintf("CRIU %s is older than %s that made the checkpoint", target.CRIUVersion, source.CRIUVersion)
	}
	return ""
}

// compatibleKernel compares major and minor only: what a process can hold open
// or have mapped grows with the kernel's releases, not with their patches.
func compatibleKernel(source, target *facts) string {
	switch {
	case source.kernel == nil:
		return ""
	case target.kernel == nil:
		return fmt.Sprintf("its kernel version %q cannot be read", target.KernelVersion)
	case target.kernel.Major() > source.kernel.Major(),
		target.kernel.Major() == source.kernel.Major() && target.kernel.Minor() >= source.kernel.Minor():
		return ""
	}
	return fmt.Sprintf("kernel %s is older than %s that ran the pod", target.KernelVersion, source.KernelVersion)
}

// compatibleProcessor: libraries choose instructions once, at start, and keep
// using them after a restore. As in CRIU's own check of instructions the target
// may have more than the source, not less.
func compatibleProcessor(source, target *facts) string {
	if len(source.features) == 0 || len(target.features) == 0 || source.joined == target.joined {
		return ""
	}
	missing, first := lacks(source.features, target.features)
	if missing == 0 {
		return ""
	}
	named := strings.Join(first[:min(namedFeatures, missing)], ", ")
	if more := missing - namedFeatures; more > 0 {
		named = fmt.Sprintf("%s and %d more", named, more)
	}
	return fmt.Sprintf("its processor lacks %s, which the pod may use", named)
}
