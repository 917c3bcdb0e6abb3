package detect

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// OwnTaintValue is the value of the taint node.kubernetes.io/out-of-service where
// Lifeboat itself has set it: it follows from a loss, and is no sign of one.
const OwnTaintValue = "lifeboat"

// rememberFor is how long a signal that is no more still counts as the reason of
// a loss.
const rememberFor = 10 * time.Minute

// weights are the reasons in the order in which they count.
var weights = []v1alpha1.MigrationReason{
	v1alpha1.MigrationNodeOutOfService, v1alpha1.MigrationNodeRebooted, v1alpha1.MigrationSpotInterruption,
	v1alpha1.MigrationNodeShutdown, v1alpha1.MigrationNodeDrained, v1alpha1.MigrationNodePressure, v1alpha1.MigrationNodeLost,
}

// taintReasons are what taints mean, by their keys. Two more depend on their value
// or on the node, see taintReason.
var taintReasons = map[string]v1alpha1.MigrationReason{
	// Instances that the cloud takes back, or may soon.
	"aws-node-termination-handler/spot-itn":                 v1alpha1.MigrationSpotInterruption,
	"aws-node-termination-handler/rebalance-recommendation": v1alpha1.MigrationSpotInterruption,
	"cloud.google.com/impending-node-termination":           v1alpha1.MigrationSpotInterruption,
	// The cloud says that the machine is switched off.
	"node.cloudprovider.kubernetes.io/shutdown": v1alpha1.MigrationNodeShutdown,
	// Whoever sets these drains the node, and most then remove it.
	corev1.TaintNodeUnschedulable:                            v1alpha1.MigrationNodeDrained,
	"ToBeDeletedByClusterAutoscaler":                         v1alpha1.MigrationNodeDrained,
	"karpenter.sh/disrupted":                                 v1alpha1.MigrationNodeDrained,
	"karpenter.sh/disruption":                                v1alpha1.MigrationNodeDrained, // before Karpenter 1.0
	"aws-node-termination-handler/scheduled-maintenance":     v1alpha1.MigrationNodeDrained,
	"aws-node-termination-handler/asg-lifecycle-termination": v1alpha1.MigrationNodeDrained,
}

// notices are how long ahead clouds say, by the taint's key, that they take an instance
// back: what they promise at least.
var notices = map[string]time.Duration{
	"aws-node-termination-handler/spot-itn":       2 * time.Minute,
	"cloud.google.com/impending-node-termination": 30 * time.Second,
	azureDraining:            azureNotice,
	azureUnschedulableNow:    azureNotice,
	azureUnschedulableBefore: azureNotice,
}

// azureNotice is how long ahead Azure says so.
const azureNotice = 30 * time.Second

const (
	azureDraining      = "cloudprovider.azure.microsoft.com/draining"
	azureSpotEviction  = "spot-eviction"
	azurePriorityLabel = "kubernetes.azure.com/scalesetpriority"
	azureSpot          = "spot"
	// azureScheduled is the condition in which AKS tells what Azure will do to the
	// machine.
	azureScheduled = "VMEventScheduled"
	// shuttingDown is what a kubelet says in its Ready condition from the moment at
	// which systemd tells it that the machine shuts down.
	shuttingDown = "node is shutting down"
)

// The taints of AKS's node auto-drain, now and before.
const (
	azureUnschedulableNow    = "remediator.kubernetes.azure.com/unschedulable"
	azureUnschedulableBefore = "remediator.aks.microsoft.com/unschedulable"
)

var azureUnschedulable = []string{azureUnschedulableNow, azureUnschedulableBefore}

// taintReason is what a taint means, empty where it says nothing of the node's end.
func taintReason(node *corev1.Node, taint corev1.Taint) v1alpha1.MigrationReason {
	switch {
	case taint.Key == corev1.TaintNodeOutOfService && taint.Value != OwnTaintValue:
		return v1alpha1.MigrationNodeOutOfService
	case taint.Key == azureDraining && taint.Value == azureSpotEviction:
		return v1alpha1.MigrationSpotInterruption
	case slices.Contains(azureUnschedulable, taint.Key):
		if node.Labels[azurePriorityLabel] == azureSpot {
			return v1alpha1.MigrationSpotInterruption
		}
		return v1alpha1.MigrationNodeDrained
	}
	return taintReasons[taint.Key]
}

// outOfService says whether somebody other than Lifeboat tainted the node so.
func outOfService(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool {
		return taintReason(node, taint) == v1alpha1.MigrationNodeOutOfService
	})
}

// signalsOf are what a Node object says.
func signalsOf(node *corev1.Node) []Signal {
	var signals []Signal
	if node.Spec.Unschedulable {
		signals = append(signals, Signal{Reason: v1alpha1.MigrationNodeDrained, Message: "it is cordoned"})
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key == corev1.TaintNodeUnschedulable && node.Spec.Unschedulable {
			continue // Kubernetes sets it on a cordoned node
		}
		if reason := taintReason(node, taint); reason != "" {
			signal := Signal{Reason: reason, Message: fmt.Sprintf("it is tainted %s", taint.ToString())}
			if reason == v1alpha1.MigrationSpotInterruption {
				signal.Notice = notices[taint.Key]
			}
			signals = append(signals, signal)
		}
	}
	for _, condition := range node.Status.Conditions {
		if signal, ok := conditionSignal(condition); ok {
			signals = append(signals, signal)
		}
	}
	return signals
}

// conditionSignal is what a condition of a Node says, if it does.
func conditionSignal(condition corev1.NodeCondition) (Signal, bool) {
	set := condition.Status == corev1.ConditionTrue
	switch condition.Type {
	case corev1.NodeReady:
		switch {
		case condition.Status == corev1.ConditionUnknown:
			return Signal{Reason: v1alpha1.MigrationNodeLost, Message: "Kubernetes reports its status as unknown"}, true
		case condition.Status == corev1.ConditionFalse && strings.Contains(condition.Message, shuttingDown):
			return Signal{Reason: v1alpha1.MigrationNodeShutdown, Message: "its kubelet says that it shuts down"}, true
		case condition.Status == corev1.ConditionFalse:
			return Signal{Reason: v1alpha1.MigrationNodeLost, Message: "its kubelet says that it is not ready"}, true
		}
	case corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure:
		return Signal{Reason: v1alpha1.MigrationNodePressure, Message: fmt.Sprintf("its kubelet reports %s", condition.Type)}, set
	case azureScheduled:
		text := condition.Reason + " " + condition.Message
		for _, of := range []struct {
			event  string
			reason v1alpha1.MigrationReason
			notice time.Duration
		}{
			{"Preempt", v1alpha1.MigrationSpotInterruption, azureNotice},
			{"Terminate", v1alpha1.MigrationNodeShutdown, 0},
			{"Redeploy", v1alpha1.MigrationNodeShutdown, 0},
			{"Reboot", v1alpha1.MigrationNodeShutdown, 0},
		} {
			if strings.Contains(text, of.event) {
				return Signal{Reason: of.reason, Message: fmt.Sprintf("Azure has scheduled for it: %s", of.event), Notice: of.notice}, set
			}
		}
	}
	return Signal{}, false
}

// byWeight sorts signals, the weightiest first, and drops those that are the same.
func byWeight(signals []Signal) []Signal {
	slices.SortFunc(signals, func(a, b Signal) int {
		if a.Reason != b.Reason {
			return slices.Index(weights, a.Reason) - slices.Index(weights, b.Reason)
		}
		return strings.Compare(a.Message, b.Message)
	})
	return slices.Compact(signals)
}
