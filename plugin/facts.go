package plugin

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// facts are a node's facts in the form in which they are compared. They are
// parsed when a Fence changes and not for each pod and node.
type facts struct {
	v1alpha1.NodeFacts
	kernel, criu *version.Version // nil when unknown or not to be read
	features     []string         // sorted
	joined       string           // the features as one word: most nodes have the same
}

func parseFacts(f v1alpha1.NodeFacts) facts {
	parsed := facts{NodeFacts: f, features: f.CPUFeatures}
	if v, err := version.ParseGeneric(f.KernelVersion); err == nil {
		parsed.kernel = v
	}
	if v, err := version.ParseGeneric(f.CRIUVersion); err == nil {
		parsed.criu = v
	}
	if !slices.IsSorted(parsed.features) {
		parsed.features = slices.Sorted(slices.Values(parsed.features))
	}
	parsed.joined = strings.Join(parsed.features, " ")
	return parsed
}

// lacks returns how many of the wanted features are not among those that there
// are, and the first of them. Both are sorted.
func lacks(wanted, there []string) (missing int, first [namedFeatures]string) {
	for _, feature := range wanted {
		for len(there) > 0 && there[0] < feature {
			there = there[1:]
		}
		if len(there) > 0 && there[0] == feature {
			continue
		}
		if missing < namedFeatures {
			first[missing] = feature
		}
		missing++
	}
	return missing, first
}
