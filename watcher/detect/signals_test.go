package detect

import (
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestSignalsAreDocumented: docs/reference/signals.md has a line for each taint,
// with the reason that follows, in the order of the weights.
func TestSignalsAreDocumented(t *testing.T) {
	content, err := os.ReadFile("../../docs/reference/signals.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(content), "## May it go soon?")
	taints := map[string]v1alpha1.MigrationReason{corev1.TaintNodeOutOfService: v1alpha1.MigrationNodeOutOfService, azureDraining: v1alpha1.MigrationSpotInterruption}
	for taint, reason := range taintReasons {
		taints[taint] = reason
	}
	for _, taint := range azureUnschedulable {
		taints[taint] = v1alpha1.MigrationSpotInterruption
	}
	last := 0
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| signal") {
			continue
		}
		cells := strings.Split(line, " | ")
		reason := v1alpha1.MigrationReason(strings.Trim(cells[3], "`"))
		weight := -1
		for i, known := range weights {
			if known == reason {
				weight = i
			}
		}
		if weight < last {
			t.Errorf("line %q is out of order, or its reason is unknown", line)
		}
		last = weight
		for taint, of := range taints {
			if of == reason && strings.Contains(cells[0], "`"+taint+"`") {
				delete(taints, taint)
			}
		}
	}
	for taint, reason := range taints {
		t.Errorf("taint %s with reason %s is not documented", taint, reason)
	}
	if last != len(weights)-1 {
		t.Error("the table does not end with the last reason")
	}
}

// TestTaints: what each kind of taint means, and what means nothing.
func TestTaints(t *testing.T) {
	for key, want := range map[string]v1alpha1.MigrationReason{
		"node.kubernetes.io/out-of-service=nodeshutdown":            v1alpha1.MigrationNodeOutOfService,
		"node.kubernetes.io/out-of-service=lifeboat":                "",
		"aws-node-termination-handler/rebalance-recommendation=x":   v1alpha1.MigrationSpotInterruption,
		"aws-node-termination-handler/asg-lifecycle-termination=x":  v1alpha1.MigrationNodeDrained,
		"cloudprovider.azure.microsoft.com/draining=spot-eviction":  v1alpha1.MigrationSpotInterruption,
		"cloudprovider.azure.microsoft.com/draining=something-else": "",
		"node.cloudprovider.kubernetes.io/shutdown":                 v1alpha1.MigrationNodeShutdown,
		"DeletionCandidateOfClusterAutoscaler=1767268800":           "", // it may stay
		"node.kubernetes.io/unreachable":                            "", // says what the conditions say
		"kubernetes.azure.com/scalesetpriority=spot":                "", // what the node is, not what becomes of it
		"node-role.kubernetes.io/control-plane":                     "",
		"karpenter.sh/disruption=disrupting":                        v1alpha1.MigrationNodeDrained,
		"aws-node-termination-handler/scheduled-maintenance=x":      v1alpha1.MigrationNodeDrained,
		"remediator.aks.microsoft.com/unschedulable":                v1alpha1.MigrationNodeDrained,
	} {
		name, value, _ := strings.Cut(key, "=")
		if got := taintReason(&corev1.Node{}, corev1.Taint{Key: name, Value: value}); got != want {
			t.Errorf("%s means %q, want %q", key, got, want)
		}
	}
}

// TestNotices: a cloud's promise goes with the signals that say that it takes a spot
// instance back, and with no other.
func TestNotices(t *testing.T) {
	spot := map[string]string{azurePriorityLabel: azureSpot}
	for name, tc := range map[string]struct {
		taint  string
		labels map[string]string
		want   time.Duration
	}{
		"AWS takes it back":          {taint: "aws-node-termination-handler/spot-itn", want: 2 * time.Minute},
		"AWS may take it back":       {taint: "aws-node-termination-handler/rebalance-recommendation"},
		"GKE":                        {taint: "cloud.google.com/impending-node-termination", want: 30 * time.Second},
		"AKS, a spot instance":       {taint: "remediator.aks.microsoft.com/unschedulable", labels: spot, want: 30 * time.Second},
		"AKS, another instance":      {taint: "remediator.aks.microsoft.com/unschedulable"},
		"it is drained for a repair": {taint: "aws-node-termination-handler/scheduled-maintenance"},
	} {
		t.Run(name, func(t *testing.T) {
			node := &corev1.Node{}
			node.Labels, node.Spec.Taints = tc.labels, []corev1.Taint{{Key: tc.taint}}
			signals := signalsOf(node)
			if len(signals) != 1 || signals[0].Notice != tc.want {
				t.Errorf("signals %+v, want one with a notice of %s", signals, tc.want)
			}
		})
	}
	preempt, set := conditionSignal(corev1.NodeCondition{Type: azureScheduled, Status: corev1.ConditionTrue, Reason: "PreemptScheduled"})
	if !set || preempt.Notice != 30*time.Second {
		t.Errorf("Azure's event gives %+v, want a notice of 30s", preempt)
	}
}
